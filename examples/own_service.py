r"""A whole service in a file: the client says a line, the server says it back, louder.

A service knows bytes, requests and steps.  It knows no socket and no thread, so it can be
run with bytes alone, which is what this file does when it is run itself:

    python examples/own_service.py

And every architecture can serve it:

    sedabench serve threaded --service examples/own_service.py:Shout --port 8080 --marks 3
    printf 'hello\nworld\n' | curl -s --max-time 1 telnet://127.0.0.1:8080

Both print HELLO and WORLD.  With `seda` in place of `threaded` the step `shout` is a stage, and
one that is full has `reject` answer.  `--marks`, the field of `ShoutOptions`, is an option by
itself: see `sedabench serve threaded --service examples/own_service.py:Shout --help`.
"""

from dataclasses import dataclass

from servers.options import option
from servers.service import Request, Service, Session, step


@dataclass(frozen=True)
class ShoutOptions:
    marks: int = option(1, "exclamation marks behind each line", minimum=0)


class Line(Request):
    __slots__ = ("text",)

    def __init__(self, step, text):
        super().__init__(step)
        self.text = text


class Lines(Session):
    """One connection: bytes in, whole lines out, however the bytes were cut."""

    def __init__(self, first):
        self.first = first
        self.rest = b""

    def receive(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")  # `data` is not ours to keep
        return [Line(self.first, line) for line in lines]

    @property
    def idle(self):
        return not self.rest


class Shout(Service):
    """A line is answered by the same in capitals."""

    name = "shout"
    Options = ShoutOptions

    @property
    def first(self):
        return self.shout

    def session(self):
        return Lines(self.shout)

    @step
    def shout(self, request):
        request.reply = (request.text.upper(), b"!" * self.options.marks + b"\n")

    def reject(self, request):  # without this method a full stage makes clients wait
        request.reply = (b"too busy\n",)


if __name__ == "__main__":
    service = Shout(ShoutOptions())
    session = service.session()
    for piece in (b"hel", b"lo\nwor", b"ld\n"):
        for request in session.receive(memoryview(piece)):
            request.step(request)
            print(b"".join(request.reply).decode(), end="")

"""The contract between a service and the architectures that run it.

A service is sans-I/O.  It knows bytes, requests and steps; it does not know sockets,
threads, loops or clocks.  It defines three things:

- how bytes become requests: `Service.session()` makes one `Session` per
  connection, and `Session.receive(data)` returns the requests that `data`
  completed;
- what is done for a request: *steps*, methods marked with `@step`.  A step
  takes one request and returns the step that comes next, or `None` when the
  reply is ready in `request.reply`.  A step that may wait (for a disk, for a
  backend) is marked `@step(blocking=True)`;
- what to answer when the request is not served: `reject` when the server sheds
  it, `fail` when a step raised.

An architecture promises in return:

- one session is never called by two threads at once, and one request is never
  in two steps at once; but steps of *different* requests may run at the same
  time on different threads, so whatever a service shares between requests
  must be safe to share;
- replies leave a connection in the order of its requests, each whole;
- `data` is valid only during the call of `receive`: a session copies what it
  keeps.

A whole service::

    class Upper(Service):
        name = "upper"

        def session(self) -> Session:
            return Lines(self)              # one Request per line

        @property
        def first(self) -> Step:
            return self.shout

        @step
        def shout(self, request: Request) -> Step | None:
            request.reply = (request.line.upper(),)
            return None
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, overload

Buffer: TypeAlias = bytes | bytearray | memoryview


class Request:
    """One request of one connection and, in the end, its reply.

    A service subclasses it to add what it parsed.  `connection`, `done` and `context`
    belong to the architecture; a service leaves them alone.
    """

    __slots__ = ("connection", "context", "done", "last", "reply", "step")

    step: Step
    """The step to run next; a session sets it to the step where the request enters."""
    reply: tuple[Buffer, ...]
    """The reply: buffers that are sent one after another and must not change afterwards."""
    last: bool
    """The connection is closed after this reply."""
    connection: Any
    """The connection that it came from, if it leaves the thread that reads from that."""
    done: bool
    """Its reply is ready, while the replies to requests before it may not be."""
    context: Any
    """Whatever else the architecture keeps about this request."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.reply = ()
        self.last = False
        self.connection = None
        self.done = False
        self.context = None


Step: TypeAlias = Callable[[Any], Any]
"""`(request) -> Step | None`.  (Python's type system cannot express a recursive callable.)"""

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def step(function: _F, /) -> _F: ...
@overload
def step(*, blocking: bool = False, to: tuple[str, ...] = ()) -> Callable[[_F], _F]: ...
def step(
    function: _F | None = None, /, *, blocking: bool = False, to: tuple[str, ...] = ()
) -> _F | Callable[[_F], _F]:
    """Mark a method of a `Service` as a step: `@step`, or `@step(blocking=True)`.

    `to` names the steps that can come next, for drawings of the graph; without
    it they are found in the method's code, as `self.NAME`.
    """

    def mark(marked: _F) -> _F:
        cast(Any, marked).blocking = blocking
        cast(Any, marked).to = to
        return marked

    return mark if function is None else mark(function)


class Session(ABC):
    """One connection's protocol state: bytes in, complete requests out."""

    __slots__ = ()

    @abstractmethod
    def receive(self, data: memoryview) -> Sequence[Request]:
        """Take the next bytes of the connection; return the requests they completed.

        The same bytes give the same requests however they are split.  Bytes that
        violate the protocol give a request whose reply says so and is `last`;
        after such a request the session ignores all further bytes.
        """

    @property
    @abstractmethod
    def idle(self) -> bool:
        """True between requests: nothing is lost if the connection is closed now."""

    # For protocols in which a peer can send a request very slowly.  When the same head or body
    # has been pending for longer than `--header-timeout`, or `--body-timeout` and
    # `--body-min-rate`, allow, `give_up` is called.

    @property
    def head_pending(self) -> int:
        """The number (1, 2, ...) of the request whose head is incomplete; 0 if there is none."""
        return 0

    @property
    def body_pending(self) -> int:
        """The number of the request whose head is complete and whose body is not; else 0."""
        return 0

    @property
    def body_bytes(self) -> int:
        """Bytes of the pending body received so far, including its framing and trailers."""
        return 0

    def give_up(self) -> Request | None:
        """The rest of the request did not arrive in time: what to answer, as the last reply."""
        return None


class Service(ABC):
    """Application logic, written once and run by every architecture.

    `Options` is a frozen dataclass (see `servers.options`) with the service's
    own settings; its fields become command line options automatically.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Any]]

    about: Mapping[str, object]
    """Facts about the server that runs it, shown to people; set before `start`."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.about = {}
        # Binding once makes `self.some_step` one object for the service's life:
        # no allocation per request, and a stage can be looked up by its step.
        for step_name in self.step_names():
            setattr(self, step_name, getattr(self, step_name))

    @classmethod
    def step_names(cls) -> tuple[str, ...]:
        """The names of the steps, in the order in which the class defines them."""
        names: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            names.update(dict.fromkeys(n for n, f in vars(base).items() if hasattr(f, "blocking")))
        return tuple(names)

    def steps(self) -> Mapping[str, Step]:
        """Every step by name, bound to this service."""
        return {name: getattr(self, name) for name in self.step_names()}

    @property
    @abstractmethod
    def first(self) -> Step:
        """The step at which an ordinary request enters."""

    @property
    def entries(self) -> tuple[Step, ...]:
        """Every step at which a session lets requests enter, for drawings of the graph."""
        return (self.first,)

    @abstractmethod
    def session(self) -> Session:
        """The protocol state of a new connection."""

    def reject(self, request: Request) -> None:
        """Answer a request that the server sheds.  By default: close without a reply."""
        request.reply = ()
        request.last = True

    def fail(self, request: Request, error: Exception) -> None:
        """Answer a request whose step raised.  By default: close without a reply."""
        request.reply = ()
        request.last = True

    def start(self) -> None:  # noqa: B027  (optional hook)
        """Called once, before the first connection."""

    def stop(self) -> None:  # noqa: B027  (optional hook)
        """Called once, after the last connection."""

    def stats(self) -> dict[str, Any]:
        """The service's own counters, for `/stats`; called from the admin thread."""
        return {}

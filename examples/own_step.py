r"""A step of your own, added to the service `web`: a request that waits for a backend.

The new step is marked as blocking.  The architecture decides who runs it, and on which
thread; the step cannot tell.

    sedabench serve eventloop --service examples/own_step.py:WithBackend --port 8080
    sedabench load http --target http://127.0.0.1:8080/backend --connections 64

The event loop waits for the backend itself and answers fewer than 200 requests/s, one every
5 ms.  Then use `threaded` in place of `eventloop`: with one thread per connection, all 64 wait
at once, and 8,500/s were answered here.  And `seda`: the stage begins with 8 threads, its
controller adds up to 32 while requests wait, and 5,400/s were answered.

    sedabench graph seda --service examples/own_step.py:WithBackend

draws the new stage, between `route` and `respond`.
"""

import time

from servers.service import step
from servers.services.web import TEXT, Web
from servers.services.web_page import Page

BACKEND_S = 0.005


class WithBackend(Web):
    name = "web-with-backend"

    @step(to=("ask_backend", "lookup", "compute", "respond"))
    def route(self, request):
        return self.ask_backend if request.path == "/backend" else super().route(request)

    @step(blocking=True)
    def ask_backend(self, request):
        time.sleep(BACKEND_S)
        request.page = Page(b"the backend says hello\n", TEXT)
        return self.respond

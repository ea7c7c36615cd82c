r"""An architecture of one's own: some threads, all waiting in one epoll for any connection.

The idea is between a thread a connection and one loop (known as Leader/Followers: Schmidt
and others, "Pattern-Oriented Software Architecture" 2, 2000).  Whichever thread the kernel
wakes takes one connection that has something to say, reads, runs the steps, replies, and
only then lets the others have that connection back.  No queue, no hand-over, and as many
threads as you say for any number of connections.

    sedabench serve examples/own_architecture.py:Followers --service web --port 8080
    sedabench run figure1 --quick --server eventloop \
                          --server 'examples/own_architecture.py:Followers --threads 4'
    sedabench run overload --quick --server eventloop \
                           --server examples/own_architecture.py:Followers

You see a curve of its own, `Followers --threads 4`, in the same figure as `eventloop`.  The
services, the load and every check of a trial are those of the three that come with it.

Left out, to be short: time-outs, the limit on connections, and the farewell to a peer that
still sends (docs/architecture.md, "How a connection ends").
"""

import select
import threading
from dataclasses import dataclass

from servers.architecture import Architecture
from servers.listener import accept, set_kernel_timeouts
from servers.options import option

ONCE = select.EPOLLIN | select.EPOLLONESHOT  # told to one thread, then to nobody until it asks


@dataclass(frozen=True)
class FollowersOptions:
    threads: int = option(8, "threads that wait for connections", minimum=1, maximum=1000)


class Followers(Architecture):
    """N threads in one epoll_wait; whoever is woken serves that connection."""

    name = "followers"
    Options = FollowersOptions

    def run(self):
        self.epoll = select.epoll()
        self.connections = {}
        self.epoll.register(self.listener, ONCE)
        for _ in range(self.options.threads):
            threading.Thread(target=self.follow, daemon=True).start()
        while not select.select([self.wakeup], [], [], 0.25)[0]:
            pass  # until stop(), which a signal calls
        # The threads end with the process, so what they have not answered is lost.

    def follow(self):
        counters = self.ledger.lease()  # this thread's own block, so that counting needs no lock
        buffer = memoryview(bytearray(self.server.receive_bytes))
        while True:
            [(descriptor, _)] = self.epoll.poll(maxevents=1)
            if descriptor == self.listener.fileno():
                self.welcome(accept(self.listener), counters)
            elif self.serve(*self.connections[descriptor], buffer, counters):
                self.epoll.modify(descriptor, ONCE)
            else:
                counters.closed += 1
                self.connections.pop(descriptor)[0].close()

    def welcome(self, sock, counters):
        if sock is not None:
            counters.accepted += 1
            set_kernel_timeouts(sock, self.server.idle_timeout_s, self.server.send_timeout_s)
            self.connections[sock.fileno()] = sock, self.service.session()
            self.epoll.register(sock, ONCE)
        self.epoll.modify(self.listener, ONCE)

    def serve(self, sock, session, buffer, counters):
        """Answer what one read brings; False at the end of the connection."""
        try:
            size = sock.recv_into(buffer)
            counters.bytes_in += size
            requests = session.receive(buffer[:size]) if size else ()
            counters.requests += len(requests)
            for request in requests:
                self.run_steps(request, counters)
                reply = b"".join(request.reply)
                sock.sendall(reply)
                counters.bytes_out += len(reply)
                counters.replies += 1
                if request.last:
                    return False
        except OSError:
            counters.errors["reset"] += 1
            return False
        except Exception:  # a fault in the session costs its connection
            counters.errors["protocol"] += 1
            return False
        return bool(size)

    def run_steps(self, request, counters):
        step = request.step
        try:
            while step is not None:
                step = step(request)
        except Exception as error:
            self.fail(request, error, counters)

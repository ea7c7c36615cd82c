r"""An architecture of your own: some threads, all waiting in one epoll for any connection.

The idea lies between one thread per connection and one loop (known as Leader/Followers:
Schmidt and others, "Pattern-Oriented Software Architecture" 2, 2000).  Whichever thread the
kernel wakes takes one connection that is readable, reads, runs the steps, replies, and
only then lets the others have that connection again.  There is no queue and no hand-over,
and the number of threads does not depend on that of the connections.

    sedabench serve examples/own_architecture.py:Followers --service web --port 8080
    sedabench run figure1 --quick --server eventloop \
                          --server 'examples/own_architecture.py:Followers --threads 4'
    sedabench run overload --quick --server eventloop \
                           --server examples/own_architecture.py:Followers

It has its own curve, `Followers --threads 4`, in the same figure as `eventloop`.  The
services, the load and every check of a trial are the same as for the built-in three.

Left out, to be short: time-outs, and the orderly end of a connection whose peer is still
sending (docs/architecture.md, "How a connection ends").
"""

import select
import threading
from dataclasses import dataclass

from servers.acceptor import Acceptor
from servers.architecture import Architecture
from servers.listener import set_kernel_timeouts
from servers.options import option

ONCE = select.EPOLLIN | select.EPOLLONESHOT  # reported to one thread, until it is re-armed


@dataclass(frozen=True)
class FollowersOptions:
    threads: int = option(8, "threads that wait for connections", minimum=1, maximum=1000)


class Followers(Architecture):
    """N threads in one epoll_wait; the one that is woken serves that connection."""

    name = "followers"
    Options = FollowersOptions

    def run(self):
        self.epoll = select.epoll()
        self.connections = {}
        self.acceptor = Acceptor(
            self.listener, lambda: len(self.connections) < self.max_connections
        )
        self.epoll.register(self.listener, ONCE)
        for _ in range(self.options.threads):
            threading.Thread(target=self.follow, daemon=True).start()
        while not select.select([self.wakeup], [], [], 0.25)[0]:  # until stop()
            if self.acceptor.failed:  # it ran out of descriptors: try again
                self.acceptor.failed = False
                self.epoll.modify(self.listener, ONCE)
        # The threads end with the process, so what they have not answered is lost.

    def follow(self):
        counters = self.ledger.lease()  # this thread's own block, so that counting needs no lock
        buffer = memoryview(bytearray(self.server.receive_bytes))
        while True:
            [(descriptor, _)] = self.epoll.poll(maxevents=1)
            if descriptor == self.listener.fileno():
                for sock in self.acceptor.take(1, counters):
                    self.welcome(sock, counters)
                if not self.acceptor.failed:
                    self.epoll.modify(self.listener, ONCE)
            elif self.serve(*self.connections[descriptor], buffer, counters):
                self.epoll.modify(descriptor, ONCE)
            else:
                counters.closed += 1
                self.connections.pop(descriptor)[0].close()

    def welcome(self, sock, counters):
        session = self.new_session(sock, counters)
        if session is not None:
            counters.accepted += 1
            set_kernel_timeouts(sock, self.server.idle_timeout_s, self.server.send_timeout_s)
            self.connections[sock.fileno()] = sock, session
            self.epoll.register(sock, ONCE)

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

"""What is measured: one service, written once, run by interchangeable architectures.

A *service* is application logic as a short graph of *steps* (`servers.service`).
An *architecture* decides who runs the steps, when, and on which thread:
`servers.threaded`, `servers.eventloop` and `servers.seda`, to be read side by
side.  So a difference between two curves is a difference between two
architectures and nothing else.

What lives here: the contract (`service`, `architecture`), the architectures, the
services (`services/`), and what all architectures share, each in a module of its
own, so that a new architecture is short:

    acceptor          new connections, the limit on them, failures of accept()
    connection        one connection on a nonblocking socket
    conversation      one connection on a blocking socket
    request_deadline  time-outs of requests that arrive slowly
    listener          options of every server, sockets, bind, limits
    counters          what is counted, one block per thread
    shortage          which limit was reached when the system refuses something

The process around them is `__main__`, `signals`, `output`, `options`, `registry`
(finds a class by name), and `admin` (`/stats` and `/metrics`).

What must not live here: anything that is not in the standard library or httptools,
so that any interpreter can run a server; anything that knows `loadgen` or `sedabench`;
and in an architecture, anything that knows which service it runs.
"""

r"""This project's users together with plain Locust ones, in one Locust file.

    sedabench serve seda --service web --port 8080 --admin-port 8081
    locust -f examples/locust_together.py --headless --target http://127.0.0.1:8080 \
           --mix examples/mix.toml --users 8 --spawn-rate 8 --run-time 5

Locust's table has the classes of the mix, sent by `WebUser` without a pause and each reply
checked, beside the two pages of `Reader`, a user as anyone would write it with Locust alone.
By their weights, of four users one reads.  Without --headless: http://localhost:8089.

The options of this project (--target, --mix, ...) come with the import of its Locust file;
users must be classes of this file for Locust to see them.
"""

from locust import HttpUser, between, task

from loadgen.locustfile import add_options, set_up  # noqa: F401  (they tell Locust)
from loadgen.swarm import users as locust_users


class WebUser(locust_users.WebUser):
    weight = 3


class Reader(HttpUser):
    """Looks at a page, thinks, looks at another."""

    host = "http://127.0.0.1"  # until on_start
    wait_time = between(0.1, 0.5)

    def on_start(self):
        self.client.base_url = self.environment.parsed_options.target

    @task(3)
    def front_page(self):
        self.client.get("/")

    @task
    def health(self):
        with self.client.get("/healthz", catch_response=True) as reply:
            if reply.text != "ok\n":
                reply.failure("not ok")

"""`python -m loadgen WORKLOAD --target HOST:PORT ...`: the command `load` by itself."""

from loadgen.cli.load import load
from loadgen.output import command

if __name__ == "__main__":
    command(lambda: load(prog_name="python -m loadgen"))

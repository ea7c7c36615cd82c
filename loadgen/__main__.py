"""`python -m loadgen WORKLOAD --target HOST:PORT ...`: the command `load` by itself."""

from loadgen.cli.load import load

if __name__ == "__main__":
    load(prog_name="python -m loadgen")

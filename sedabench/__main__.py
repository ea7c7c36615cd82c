"""`python -m sedabench` is `sedabench`."""

from sedabench.cli.main import main

if __name__ == "__main__":
    main()

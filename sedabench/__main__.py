"""`python -m sedabench` is `sedabench`."""

from sedabench.cli import main

if __name__ == "__main__":
    main()

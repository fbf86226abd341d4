"""`python -m esimbpf`."""

from esimbpf.cli import main

if __name__ == "__main__":
    main()

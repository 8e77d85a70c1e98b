"""`python -m limberlm` is the `limber` command, so that torchrun and accelerate can start it."""

from limberlm.cli import main

if __name__ == "__main__":
    main()

"""`python -m towline.cli`: the command where it is not on the PATH."""

from towline.cli import main

main()

"""Images and their start: an agent beside `docker build` and `docker run`."""

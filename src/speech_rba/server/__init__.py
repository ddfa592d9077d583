"""The student behind HTTP: an OpenAI-compatible server, and a page to talk to it."""

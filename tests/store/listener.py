"""A reporter that remembers."""

from polyseme.core.progress import Silent


class Listener(Silent):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

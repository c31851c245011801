"""A client of live sessions."""

import json

from websockets.sync.client import connect

from tests.waiting import PATIENCE

QUESTION = "which color is named?"


class Live:
    """A connection that sends and receives events."""

    def __init__(self, server, query="?model=mirasol"):
        self.socket = connect(f"{server.address.replace('http', 'ws')}/v1/realtime{query}", max_size=None)
        self.events = [self.receive()]

    def send(self, type, **values):
        self.socket.send(json.dumps({"type": type, **values}))

    def receive(self):
        return json.loads(self.socket.recv(timeout=PATIENCE))

    def until(self, type):
        """Receive up to the next event of this type."""
        while True:
            self.events.append(self.receive())
            if self.events[-1]["type"] == type:
                return self.events[-1]

    def settings(self, **values):
        self.send("session.update", session={"type": "realtime", **values})
        return self.until("session.updated")["session"]

    def ask(self, question=QUESTION):
        self.send("conversation.item.create", item={
            "type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]})  # fmt: skip
        self.send("response.create")
        return self.until("response.done")["response"]

    def text(self, question=QUESTION):
        return self.ask(question)["output"][0]["content"][0]["text"]

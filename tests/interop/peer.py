"""The reference implementation as a test peer: libzmq, through pyzmq, driven by lines of text.

Each line on stdin is a command, `word argument ...`; each gets one line on stdout, `ok ...` or `error ...`. Sockets have
names chosen by the test. Bodies are made on both sides from the same pattern, so only commands and verdicts pass the pipe.
"""

import os
import select
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

MIB = 1 << 20
SIZES = [0, 1, 254, 255, 256, 8191, 8192, 65535, 65536, MIB, 16 * MIB]
FRAME_COUNTS = [1, 2, 100]
MESSAGE_BYTES = 16 * MIB
PERIOD = 65521
PATIENCE_MS = 60_000


def make_pattern():
    """Bytes with a period that is prime, so that no buffer size divides it: a shifted or repeated block shows."""
    state, period = 1, bytearray()
    for _ in range(PERIOD):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        period.append((state >> 16) & 0xFF)
    return bytes(period) * (MESSAGE_BYTES // PERIOD + 2)


PATTERN = make_pattern()


def shape_messages(largest):
    """The messages of the matrix, in the order in which both sides send them."""
    shapes = [(size, count) for size in SIZES if size <= largest for count in FRAME_COUNTS]
    for number, (size, count) in enumerate(shapes):
        full = count if size == 0 else max(1, min(count, MESSAGE_BYTES // size))
        frames = []
        for index in range(count):
            start = (number * 1009 + index * 31) % PERIOD
            frames.append(PATTERN[start : start + (size if index < full else index)])
        yield frames


def sequence_message(number, size):
    return number.to_bytes(8, "big") + PATTERN[: size - 8]


class Failed(Exception):
    pass


class Lines:
    """Commands from stdin, with a way to ask whether there is one."""

    def __init__(self):
        self.rest = b""

    def ready(self, timeout_ms):
        return b"\n" in self.rest or bool(select.select([0], [], [], timeout_ms / 1000)[0])

    def next(self):
        while b"\n" not in self.rest:
            read = os.read(0, 65536)
            if not read:
                return None
            self.rest += read
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()


class Peer:
    """The sockets of this process and what the test can ask of them."""

    def __init__(self, lines):
        self.lines = lines
        self.context = zmq.Context()
        self.sockets = {}
        self.monitors = {}
        self.routes = {}

    # Sockets and endpoints.

    def do_socket(self, name, kind, *options):
        self.sockets[name] = self.context.socket(getattr(zmq, kind))
        self.do_options(name, f"sndtimeo={PATIENCE_MS}", f"rcvtimeo={PATIENCE_MS}", "linger=0")
        self.do_options(name, *options)

    def do_options(self, name, *options):
        """`option=value`; `to=id` is the peer that a ROUTER talks to."""
        for option in options:
            key, value = option.split("=", 1)
            if key == "to":
                self.routes[name] = value.encode()
            elif value.lstrip("-").isdigit():
                self.sockets[name].setsockopt(getattr(zmq, key.upper()), int(value))
            else:
                self.sockets[name].setsockopt(getattr(zmq, key.upper()), value.encode())

    def do_bind(self, name, endpoint):
        self.sockets[name].bind(endpoint)
        return self.sockets[name].getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def do_connect(self, name, endpoint):
        self.sockets[name].connect(endpoint)

    def do_close(self, name, linger_ms):
        self.sockets.pop(name).close(int(linger_ms))

    # Messages by content.

    def put(self, name, frames):
        to = self.routes.get(name)
        self.sockets[name].send_multipart(frames if to is None else [to, *frames])

    def take(self, name):
        frames = self.sockets[name].recv_multipart()
        to = self.routes.get(name)
        if to is None:
            return frames
        if frames[0] != to:
            raise Failed(f"message from {frames[0]!r} instead of {to!r}")
        return frames[1:]

    def expect(self, name, number, frames):
        got = self.take(name)
        if got != frames:
            raise Failed(
                f"message {number} differs: {len(got)} frames of {[len(frame) for frame in got][:5]}... bytes instead of "
                f"{len(frames)} of {[len(frame) for frame in frames][:5]}..."
            )

    def do_send(self, name, *frames):
        self.sockets[name].send_multipart([bytes.fromhex(frame[1:]) for frame in frames])

    def do_recv(self, name, timeout_ms):
        """The frames of the next message in hexadecimal, each after an `x`; `none` when there is none in time."""
        if not self.sockets[name].poll(int(timeout_ms)):
            return "none"
        return " ".join("x" + frame.hex() for frame in self.sockets[name].recv_multipart())

    # Whole series of messages.

    def do_send_shapes(self, name, largest):
        for frames in shape_messages(int(largest)):
            self.put(name, frames)

    def do_recv_shapes(self, name, largest):
        for number, frames in enumerate(shape_messages(int(largest))):
            self.expect(name, number, frames)

    def do_request_shapes(self, name, largest):
        for number, frames in enumerate(shape_messages(int(largest))):
            self.put(name, frames)
            self.expect(name, number, frames)

    def do_send_sequence(self, name, count, size):
        for number in range(int(count)):
            self.put(name, [sequence_message(number, int(size))])

    def do_recv_sequence(self, name, count, size):
        for number in range(int(count)):
            self.expect(name, number, [sequence_message(number, int(size))])

    def do_request_sequence(self, name, count, size):
        for number in range(int(count)):
            self.put(name, [sequence_message(number, int(size))])
            self.expect(name, number, [sequence_message(number, int(size))])

    def do_echo(self, name, count):
        for _ in range(int(count)):
            self.put(name, self.take(name))

    def do_fill(self, name, size, limit):
        """Sends until there has been no room for 300 ms; returns how many messages were accepted."""
        for number in range(int(limit)):
            if not self.sockets[name].poll(300, zmq.POLLOUT):
                return number
            self.put(name, [sequence_message(number, int(size))])
        raise Failed(f"{limit} messages did not fill the queue")

    def do_recv_increasing(self, name, count, size):
        """Receives so many messages of a sequence with gaps."""
        previous = -1
        for _ in range(int(count)):
            [body] = self.take(name)
            number = int.from_bytes(body[:8], "big")
            if number <= previous:
                raise Failed(f"message {number} after {previous}")
            if body != sequence_message(number, int(size)):
                raise Failed(f"message {number} differs")
            previous = number

    # Subscriptions.

    def do_subscribe(self, name, topic):
        self.change_subscription(name, bytes.fromhex(topic[1:]), True)

    def do_unsubscribe(self, name, topic):
        self.change_subscription(name, bytes.fromhex(topic[1:]), False)

    def change_subscription(self, name, topic, add):
        socket = self.sockets[name]
        if socket.type == zmq.XSUB:
            socket.send((b"\1" if add else b"\0") + topic)
        else:
            socket.setsockopt(zmq.SUBSCRIBE if add else zmq.UNSUBSCRIBE, topic)

    def do_subscribe_many(self, name, count):
        for number in range(int(count)):
            self.change_subscription(name, b"topic-%05d" % number, True)

    def do_expect_many(self, name, count):
        """An XPUB's view of `subscribe_many` at its peer: each topic exactly once, in any order."""
        got = [self.sockets[name].recv() for _ in range(int(count))]
        if sorted(got) != [b"\1topic-%05d" % number for number in range(int(count))]:
            raise Failed(f"{len(set(got))} different topics of {count}")

    def do_recv_many(self, name, count, skipped):
        """One message for each topic of `subscribe_many`, in order; any number of `skipped` ones may come first."""
        first = next(frames for frames in iter(lambda: self.take(name), None) if frames != [skipped.encode()])
        if first != [b"topic-00000"]:
            raise Failed(f"{first} came first")
        for number in range(1, int(count)):
            self.expect(name, number, [b"topic-%05d" % number])

    def do_publish_until_told(self, name, *frames):
        """Sends the message again and again until the next command arrives: for a PUB, which cannot see its peers.

        The pauses grow, so that what is sent afterwards finds room, however long that command takes."""
        pause_ms = 2
        while not self.lines.ready(pause_ms):
            self.do_send(name, *frames)
            pause_ms = min(2 * pause_ms, 500)

    # Monitoring.

    def do_monitor(self, name):
        self.monitors[name] = self.sockets[name].get_monitor_socket()

    def do_event(self, name, event):
        """Waits for an event, passing over others; `ok` with those that came before."""
        deadline, before = time.monotonic() + PATIENCE_MS / 1000, []
        while True:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            if not self.monitors[name].poll(left_ms):
                raise Failed(f"no {event} event, only {before}")
            seen = recv_monitor_message(self.monitors[name])["event"]
            if seen == getattr(zmq, "EVENT_" + event):
                return " ".join(before)
            before.append(zmq.Event(seen).name)

    def do_events_within(self, name, milliseconds):
        """All events until so much time has passed, by name."""
        deadline, seen = time.monotonic() + int(milliseconds) / 1000, []
        while (left := deadline - time.monotonic()) > 0:
            if self.monitors[name].poll(int(left * 1000) + 1):
                seen.append(zmq.Event(recv_monitor_message(self.monitors[name])["event"]).name)
        return " ".join(seen)


def main():
    lines = Lines()
    peer = Peer(lines)
    while (line := lines.next()) is not None:
        word, *arguments = line.split(" ")
        try:
            answer = getattr(peer, "do_" + word)(*arguments)
            answer = "ok" if answer is None else f"ok {answer}"
        except (Failed, zmq.ZMQError, LookupError, ValueError) as error:
            answer = f"error {type(error).__name__}: {error}".replace("\n", " ")
        print(answer.rstrip(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

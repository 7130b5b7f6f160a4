"""A worker that is there at once and does what bodies say: ``echo``, ``sleep 2``, ``die``, ``rave``, or counts."""

import os
import sys
import time
from pathlib import Path

from equifuse.serve.messages import Answer, Begun, Done, Failed, Job, Loaded, Settings, frame, read_frame


def work(question, together):
    word, _, rest = question.body.decode().partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "die":
        os._exit(1)
    elif word == "rave":
        sys.stdout.buffer.write(b"\0\0\0\3\x93\xa6X")
        sys.stdout.buffer.flush()
        time.sleep(60)
    elif word == "together":
        time.sleep(0.05)
        return Answer(200, str(together).encode())
    elif word == "pid":
        return Answer(200, str(os.getpid()).encode())
    return Answer(200, question.body)


def main():
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    settings = read_frame(source)
    assert isinstance(settings, Settings)
    folder = Path(settings.runs["m"])
    if not folder.is_dir():
        sink.write(frame(Failed(f"no run at {folder}")))
        sink.flush()
        return
    sink.write(frame(Loaded({}, {"generation": (folder / "generation").read_text()})))
    sink.flush()
    while isinstance(job := read_frame(source), Job):
        sink.write(frame(Begun()))
        sink.flush()
        sink.write(frame(Done([work(question, len(job.questions)) for question in job.questions])))
        sink.flush()


main()

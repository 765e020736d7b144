"""Transcribe sources on a Ray cluster, into Parquet files.

python transcribe_all.py SOURCE... --output FOLDER
"""

import argparse
import os
from collections import Counter
from functools import partial
from pathlib import Path

import ray
import ray.data

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.ray import actor_memory_bytes, transcribe


def make_transcriber(engine: str, store: str, allow_private: bool) -> mt.ChunkedTranscriber:
    """Called in each actor, and once here for its plan."""
    return mt.ChunkedTranscriber(
        engine,
        downloader=mt.SafeDownloader(policy=mt.UrlPolicy(allow_private=allow_private)),
        store=mt.JobStore(store),  # on a disk of the node: what was heard there is never paid for again there
        max_audio_seconds=4 * 3600,  # the longest that is taken; its transcript is a part of an actor's memory
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new one")
    options = parser.parse_args()
    sources = [each if "://" in each else Path(each) for each in options.sources]
    output = options.output if "://" in options.output else os.path.abspath(options.output)

    make = partial(
        make_transcriber,
        os.environ.get("ENGINE", "pocketsphinx"),
        os.environ.get("STORE", "/var/tmp/memsafe-transcribe.sqlite"),
        os.environ.get("ALLOW_PRIVATE") == "1",
    )
    ray.init()  # the cluster of RAY_ADDRESS, or one of this machine's own
    actors = int(os.environ.get("ACTORS", "0")) or max(1, int(ray.cluster_resources()["CPU"]))
    print(f"{actors} actors of {actor_memory_bytes(make) / mt.MiB:.0f} MiB")
    transcribe(sources, make, (1, actors)).write_parquet(output)

    written = ray.data.read_parquet(output).select_columns(["error_type"]).take_all()
    errors = Counter(row["error_type"] for row in written)
    done = errors.pop(None, 0)
    kinds = ", ".join(f"{kind} {count}" for kind, count in errors.most_common())
    print(f"{done} transcripts, {errors.total()} without" + (f": {kinds}" if kinds else ""))


if __name__ == "__main__":
    main()

"""The client's side: send each URL to the workers, and print what is said there.

python submit.py URL...
"""

import sys

from tasks import transcribe

if __name__ == "__main__":
    for url, result in [(url, transcribe.delay(url)) for url in sys.argv[1:]]:
        print(url, result.get(timeout=3600)["text"], sep="\n")

"""Publishes the load of this machine every few seconds: `python load.py --every 5`.

SEGNO_URL says where the hub is, SEGNO_TOKEN who you are. It needs the package of `clients/python`.
"""

import argparse
import os
import socket
import sys
import time

from segno import GaveUp, Segno

options = argparse.ArgumentParser(description="Publishes the load of this machine.")
options.add_argument("--every", type=float, default=5.0, metavar="SECONDS")
options.add_argument("--count", type=int, metavar="N", help="end after N events")
options = options.parse_args()

url, token = os.environ.get("SEGNO_URL", "http://localhost:8000"), os.environ.get("SEGNO_TOKEN")
topic = f"machines/{socket.gethostname()}"

with Segno(url, token=token) as hub:
    left = options.count
    while left != 0:
        load, _, _ = os.getloadavg()
        try:
            # An old load is worth nothing, so this tries for a short time only. The default is a minute.
            stored = hub.publish({"load": round(load, 2)}, topic=topic, type="load", retry_for=options.every)
            print(stored.id, load, flush=True)
            left = left and left - 1
        except GaveUp as error:
            print("not published:", error, file=sys.stderr, flush=True)
        time.sleep(options.every)

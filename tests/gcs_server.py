"""A server of Google Cloud Storage's protocol on 127.0.0.1, with an empty bucket named ``bucket``: a script.

python tests/gcs_server.py PORT    serves until it is killed
"""

import re
import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects


def download(request, response, storage, *arguments, **options):
    """Serve an object; the emulator itself knows no ranges that are counted from the end."""
    wanted = request.get_header("range", "")
    if wanted.startswith("bytes=-"):
        size = int(storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])["size"])
        start = max(0, size - int(wanted.removeprefix("bytes=-")))
        request.get_header = lambda name, default=None: f"bytes={start}-" if name == "range" else default
    whole(request, response, storage, *arguments, **options)


def move(request, response, storage, *arguments, **options):
    """Refuse, once: clients then copy and delete. To what the emulator answers they would try it again and again."""
    response.status = HTTPStatus.METHOD_NOT_ALLOWED


if __name__ == "__main__":
    whole, objects.download = objects.download, download
    routes = [
        (pattern, {method: download if handler is whole else handler for method, handler in methods.items()})
        for pattern, methods in server.HANDLERS
    ]
    prefix = re.escape(server.settings.API_ENDPOINT)
    server.HANDLERS = ((rf"^{prefix}/b/[-.\w]+/o/.*/moveTo/o/.*$", {server.POST: move}), *routes)
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
    print("serving", flush=True)
    threading.Event().wait()

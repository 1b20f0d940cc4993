"""An S3-compatible store on this machine."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """A bucket in an S3-compatible store at ``endpoint``; ``keys`` are the environment variables that open it."""

    name: str
    endpoint: str
    keys: dict[str, str]

    def objects(self) -> dict[str, bytes]:
        """All that is in it."""
        s3 = self._client()
        listed = [page.get("Contents", []) for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.name)]
        keys = [found["Key"] for page in listed for found in page]
        return {key: s3.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def create(self) -> None:
        """Make it."""
        self._client().create_bucket(Bucket=self.name)

    def _client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys["AWS_SECRET_ACCESS_KEY"],
            region_name=self.keys["AWS_DEFAULT_REGION"],
        )


@contextlib.contextmanager
def object_store(ip: str = "127.0.0.1", secret: str = "for-tests") -> Iterator[Bucket]:
    """A new bucket."""
    from moto.server import ThreadedMotoServer

    requests = logging.getLogger("werkzeug")
    requests.disabled = True  # a line for each
    server = ThreadedMotoServer(ip, 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "for-tests", "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    bucket = Bucket("soups", f"http://{host}:{port}", keys)
    try:
        bucket.create()
        yield bucket
    finally:
        server.stop()
        requests.disabled = False

#!/opt/flatsweep/bin/python
"""Makes the bucket that sweeps and artifacts lie in, unless it is there. Usage: make_bucket.py NAME."""

import sys

import boto3
from botocore.exceptions import ClientError


def main(name: str) -> str:
    """Returns what was done; raises ClientError where the store refuses."""
    client = boto3.client("s3")
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name)
        return f"made the bucket {name}"
    return f"the bucket {name} is there"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_bucket.py NAME")
    print(main(sys.argv[1]))

"""What a cluster leans on, on one host: Postgres, an S3 server, and flatsweep's tracking server over both.

Run on that host as `python services.py FOLDER ADDRESS`; says in one line of JSON where all is, and ends with its
standard input. FOLDER/password holds the tracking server's admin password.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from postgres import private_postgres
from s3_server import S3Server

FLATSWEEP = Path(sys.executable).with_name("flatsweep")
PORT = 5000
START_SECONDS = 120.0


def main(folder: Path, address: str) -> None:
    with private_postgres() as database, S3Server(address) as s3:
        uri = database.database("mlflow")
        (folder / "database-password").write_text(database.password)
        words = ["server", "--host", address, "--port", str(PORT), "--workers", "1", "--folder", folder / "server"]
        words += ["--database", uri.replace(f":{database.password}@", "@"), "--password-file", folder / "password"]
        words += ["--database-password-file", folder / "database-password"]
        with (folder / "mlflow.log").open("wb") as log:
            server = subprocess.Popen([FLATSWEEP, *words], stdout=log, stderr=log)
        try:
            tracking = f"http://{address}:{PORT}"
            wait(tracking, server, folder / "mlflow.log")
            print(json.dumps({"tracking": tracking, "s3": s3.environment, "bucket": s3.bucket()}), flush=True)
            sys.stdin.read()
        finally:
            server.terminate()
            server.wait(30)


def wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server asks for a password."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=5)
            raise RuntimeError("the tracking server lets in whoever asks")
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text()[-3000:]) from None
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

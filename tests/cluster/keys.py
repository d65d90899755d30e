"""What the tests of clusters write and read back, through the master."""

import urllib3

from pulzar.testing.machines import Machines

SIZES = (0, 5, 1024, 5000, 70_000, 1_100_000)


class Keys:
    """Keys with values that are told by key and round; what was acknowledged is remembered."""

    def __init__(self, machines: Machines, http: urllib3.PoolManager) -> None:
        self.kept: dict[str, bytes | None] = {}
        self.copies: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._machines = machines
        self._http = http

    def put(self, key: str, value: bytes, query: str = "") -> int:
        """Write; the status."""
        url = f"{self._machines.master.url}/add_key/{key}{query}"
        answer = self._http.request("PUT", url, body=value)
        if answer.status in (200, 201):
            self.kept[key] = value
            self.copies[key] = answer.headers["Pulzar-Copies"]
            self.versions[key] = answer.json()["version"]
        return answer.status

    def delete(self, key: str) -> int:
        """Delete; the status."""
        answer = self._http.request("DELETE", f"{self._machines.master.url}/delete_key/{key}")
        if answer.status == 200:
            self.kept[key] = None
            self.copies[key] = answer.headers["Pulzar-Copies"]
        return answer.status

    def fill(self, count: int, *, prefix: str = "key", sizes: tuple[int, ...] = SIZES) -> None:
        """Write keys of all sizes, and delete every fifth."""
        for number in range(count):
            key = f"{prefix}-{number}"
            value = f"{key};".encode() * 200_000
            assert self.put(key, value[: sizes[number % len(sizes)]]) in (200, 201)
            if number % 5 == 4:
                assert self.delete(key) == 200

    def get(self, key: str) -> bytes | None:
        """Read, wherever the master says that it is; None for 404."""
        url = f"{self._machines.master.url}/get_key/{key}"
        answer = self._http.request("GET", url, redirect=False)
        if answer.status == 307:
            answer = self._http.request("GET", answer.headers["Location"], redirect=False)
        assert answer.status in (200, 404), (key, answer.status, answer.data)
        return answer.data if answer.status == 200 else None

    def check(self) -> None:
        """Everything that was acknowledged is there, and what was deleted is not."""
        wrong = [key for key, value in self.kept.items() if self.get(key) != value]
        assert wrong == []

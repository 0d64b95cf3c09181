"""A phone that the system's real adb client talks to: adbd's protocol over TCP on loopback.

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE; the services `shell:`, `shell,v2:`, `exec:`, `sync:` and
`reverse:`. A service that a real phone does not know is refused. It runs what it is sent, so it
serves 127.0.0.1 alone and is for tests alone. The phone's tools are small scripts that answer with
`Phone.outputs`; its files and settings lie in a folder.

It was written without a phone: what it answers is what the client asks for, not proof of what a
phone does.
"""

import contextlib
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little")
    for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
MAX_BYTES = 256 * 1024
VERSION = 0x01000001
# Page servers listen on 127.0.0.1 in the same machine: the phone's end of `reverse` is elsewhere.
PHONE_ADDRESS = "127.0.0.2"
BANNER = (
    b"device::ro.product.name=fake;ro.product.model=Fake 8;ro.product.device=fake;"
    b"features=shell_v2,cmd,stat_v2,fixed_push_mkdir"
)

# Made up: no phone has these values.
PROPERTIES = {
    "ro.product.model": "Fake 8",
    "ro.product.manufacturer": "Nobody",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.soc.manufacturer": "Nobody",
    "ro.soc.model": "N1",
    "ro.build.version.release": "15",
    "ro.build.version.sdk": "35",
    "ro.build.id": "FAKE.1",
}
# The form of `dumpsys battery`: github.com/mzlogin/awesome-adb (Apache-2.0).
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  health: 2
  present: true
  level: 82
  scale: 100
  voltage: 3872
  temperature: {tenths}
  technology: Li-poly
"""
# The form of `dumpsys thermalservice`: a comment in Chromium's DevTools performance runner
# (tools/perf, BSD), from a Samsung phone.
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=99.0, mType=4, mName=TYPE_SKIN, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{{mValue=24.0, mType=1, mName=TYPE_CPU, mStatus=0}}
\tTemperature{{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}}
\tTemperature{{mValue=-99.9, mType=6, mName=TYPE_POWER_AMPLIFIER, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=0, mType=2, mName=TYPE_CPU}}
"""
# Made up, in the form of Linux's /proc/cpuinfo on arm64.
CPUINFO = """processor\t: 0
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd46

processor\t: 1
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd4d
"""

TOOLS = {
    "getprop": 'cat "$PHONE/getprop"\n',
    "dumpsys": 'cat "$PHONE/dumpsys-$1" 2>/dev/null || echo "Can\'t find service: $1"\n',
    "settings": """f="$PHONE/settings/$2.$3"
case "$1" in
  get) cat "$f" 2>/dev/null || echo null;;
  put) echo "$4" > "$f"; echo "put $2 $3 $4" >> "$PHONE/settings.log";;
  delete) rm -f "$f"; echo "delete $2 $3" >> "$PHONE/settings.log";;
esac
""",
    "cmd": """case "$1 $2" in
  "power help") cat "$PHONE/cmd-power-help";;
  "power set-fixed-performance-mode-enabled") echo "$3" > "$PHONE/fixed-performance"
    echo "fixed $3" >> "$PHONE/settings.log";;
  *) echo "cmd: Can't find service: $1" >&2; exit 20;;
esac
""",
    "input": "exit 0\n",
    "wm": "exit 0\n",
    "am": 'printf "%s\\n" "$*" >> "$PHONE/am.log"\necho "Starting: Intent { }"\n',
    "taskset": 'echo "taskset $1" >> "$PHONE/taskset.log"; shift; exec "$@"\n',
    "run-as": 'app="$1"; shift; cd "$PHONE/apps/$app" || exit 1; exec "$@"\n',
}


class Phone:
    """A phone's files, settings and answers in a folder, and the server that adb connects to.

    Args:
        folder: where it keeps them.
        trusts: whether it accepts this computer's key.

    Attributes:
        serial: as `adb devices` lists it.
    """

    def __init__(self, folder: Path, *, trusts: bool = True) -> None:
        self.folder = folder
        self.trusts = trusts
        self._tools = folder / "bin"
        for name in ("bin", "settings", "apps", "data/local/tmp", "sys/cpu"):
            (folder / name).mkdir(parents=True)
        for name, script in TOOLS.items():
            path = self._tools / name
            path.write_text(f"#!/bin/sh\n{script}")
            path.chmod(0o755)
        lines = (f"[{key}]: [{value}]\n" for key, value in PROPERTIES.items())
        (folder / "getprop").write_text("".join(lines))
        (folder / "cmd-power-help").write_text("set-fixed-performance-mode-enabled [true|false]\n")
        (folder / "cpuinfo").write_text(CPUINFO)
        (folder / "meminfo").write_text("MemTotal:        8000000 kB\n")
        (folder / "sys/cpu/present").write_text("0-1\n")
        for core, khz in enumerate((1800000, 2800000)):
            cpufreq = folder / f"sys/cpu/cpu{core}/cpufreq"
            cpufreq.mkdir(parents=True)
            (cpufreq / "scaling_governor").write_text("sched_pixel\n")
            (cpufreq / "scaling_cur_freq").write_text(f"{khz}\n")
            (cpufreq / "cpuinfo_max_freq").write_text(f"{khz}\n")
        self.set_heat(battery_c=28.0, status=0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._connections: list[_Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def set_heat(self, *, battery_c: float, status: int) -> None:
        """What the phone says of its heat from now on."""
        battery = BATTERY.format(tenths=round(battery_c * 10))
        (self.folder / "dumpsys-battery").write_text(battery)
        (self.folder / "dumpsys-thermalservice").write_text(THERMAL.format(status=status))

    def setting(self, namespace: str, key: str) -> str:
        """A setting now; the empty text where it was never set."""
        path = self.folder / "settings" / f"{namespace}.{key}"
        return path.read_text().strip() if path.exists() else ""

    def log(self, name: str) -> str:
        """What `settings`, `am` or `taskset` were called with."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    @property
    def fixed_performance(self) -> str:
        """`true`, `false`, or the empty text where it was never set."""
        path = self.folder / "fixed-performance"
        return path.read_text().strip() if path.exists() else ""

    def files(self) -> list[str]:
        """What lies in /data/local/tmp."""
        root = self.folder / "data/local/tmp"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))

    def unplug(self) -> None:
        """Pull the cable, and leave it out."""
        self._server.close()
        for connection in self._connections:
            connection.close()

    close = unplug

    def run(self, line: str) -> subprocess.Popen[bytes]:
        """Start a line of the phone's shell."""
        for there, here in (
            ("/data/local/tmp", "data/local/tmp"),
            ("/sys/devices/system/cpu", "sys/cpu"),
            ("/proc/cpuinfo", "cpuinfo"),
            ("/proc/meminfo", "meminfo"),
        ):
            line = line.replace(there, str(self.folder / here))
        path = f"{self._tools}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["/bin/sh", "-c", line],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PATH": path, "PHONE": str(self.folder)},
            start_new_session=True,
        )  # fmt: skip

    def place(self, path: str) -> Path:
        """Where a path of the phone lies here."""
        return self.folder / path.lstrip("/")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(self, client)
                self._connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()


class _Connection:
    """One client."""

    def __init__(self, phone: Phone, client: socket.socket) -> None:
        self.phone = phone
        self._client = client
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._listening: dict[str, socket.socket] = {}

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = struct.pack(
            "<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF
        )
        with self._lock:
            self._client.sendall(header + data)

    def serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._exactly(24))
                self._handle(command, first, second, self._exactly(size))
        self.close()

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN:
            if self.phone.trusts:
                self.send(CNXN, VERSION, MAX_BYTES, BANNER)
            else:
                self.send(AUTH, 1, 0, bytes(20))
        elif command == AUTH and first == 2:  # a signature that it does not know
            self.send(AUTH, 1, 0, bytes(20))
        elif command == OPEN:
            stream = self.open_stream(first)
            service = data.rstrip(b"\0").decode()
            if not service.startswith(("shell", "exec:", "sync:", "reverse:")):
                self.send(CLSE, 0, first)
                return
            self.send(OKAY, stream.own, first)
            threading.Thread(target=stream.run, args=(service,), daemon=True).start()
        elif second in self._streams:
            stream = self._streams[second]
            if command == WRTE:
                stream.feed(data)
                self.send(OKAY, stream.own, stream.other)
            elif command == OKAY:
                stream.other = first
                stream.acknowledged.set()
            elif command == CLSE:
                self._streams.pop(second).close()

    def open_stream(self, other: int) -> "_Stream":
        stream = _Stream(self, self._next, other)
        self._streams[self._next] = stream
        self._next += 1
        return stream

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._client.close()
        for server in self._listening.values():
            server.close()
        for stream in list(self._streams.values()):
            stream.close()

    def _exactly(self, size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            part = self._client.recv(size - len(read))
            if not part:
                raise EOFError
            read += part
        return bytes(read)

    def reverse(self, request: str) -> bytes:
        """Answer to `reverse:...`: the phone listens, and hands connections to the computer."""
        action, _, argument = request.partition(":")
        if action == "forward":
            there, _, here = argument.removeprefix("norebind:").partition(";")
            port = int(there.removeprefix("tcp:"))
            try:
                server = socket.create_server((PHONE_ADDRESS, port))
            except OSError as error:
                text = str(error).encode()
                return b"FAIL" + b"%04x" % len(text) + text
            self._listening[there] = server
            threading.Thread(target=self._hand_over, args=(server, here), daemon=True).start()
            return b"OKAY"
        if action == "killforward" and argument in self._listening:
            self._listening.pop(argument).close()
            return b"OKAY"
        if action == "list-forward":
            text = "".join(f"host {name} {name}\n" for name in self._listening).encode()
            return b"%04x" % len(text) + text  # the list alone says that it went well
        return b"FAIL0009not found"

    def _hand_over(self, server: socket.socket, here: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                stream = self.open_stream(0)
                self.send(OPEN, stream.own, 0, here.encode() + b"\0")
                threading.Thread(target=stream.pump, args=(client,), daemon=True).start()


class _Stream:
    """One service on a connection."""

    def __init__(self, connection: _Connection, own: int, other: int) -> None:
        self.own, self.other = own, other
        self.acknowledged = threading.Event()
        self._connection = connection
        self._buffer = bytearray()
        self._changed = threading.Condition()
        self._open = True

    def feed(self, data: bytes) -> None:
        with self._changed:
            self._buffer += data
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self.acknowledged.set()

    def read(self, size: int) -> bytes:
        with self._changed:
            while len(self._buffer) < size and self._open:
                self._changed.wait()
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
        if len(data) < size:
            raise EOFError
        return data

    def read_some(self) -> bytes:
        with self._changed:
            while not self._buffer and self._open:
                self._changed.wait()
            data = bytes(self._buffer)
            self._buffer.clear()
        return data

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_BYTES):
            if not self._open:
                raise EOFError
            self.acknowledged.clear()
            part = data[start : start + MAX_BYTES]
            self._connection.send(WRTE, self.own, self.other, part)
            self.acknowledged.wait(30)

    def run(self, service: str) -> None:
        with contextlib.suppress(EOFError, OSError):
            kind, _, argument = service.partition(":")
            if kind == "sync":
                self._sync()
            elif kind == "reverse":
                self.write(self._connection.reverse(argument))
            else:
                self._shell(argument, packets="v2" in kind)
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(CLSE, self.own, self.other)

    def pump(self, client: socket.socket) -> None:
        """Carry a connection of `reverse` to the computer and back."""
        if not self.acknowledged.wait(10) or not self._open:
            client.close()
            return

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := self.read_some():
                    client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=back, daemon=True)
        thread.start()
        with contextlib.suppress(EOFError, OSError):
            while data := client.recv(65536):
                self.write(data)
        self._end()
        thread.join(10)
        client.close()

    def _shell(self, line: str, *, packets: bool) -> None:
        process = self._connection.phone.run(line)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        def feed() -> None:
            with contextlib.suppress(OSError, ValueError):
                with contextlib.suppress(EOFError):
                    while packets:
                        kind, size = struct.unpack("<BI", self.read(5))
                        data = self.read(size)
                        if kind == 4:
                            break
                        stdin.write(data)
                        stdin.flush()
                if packets:
                    stdin.close()

        threading.Thread(target=feed, daemon=True).start()
        try:
            for stream, kind in ((stdout, 1), (stderr, 2)):
                while data := stream.read1(65536):  # type: ignore[attr-defined]
                    packet = struct.pack("<BI", kind, len(data)) + data if packets else data
                    self.write(packet)
            code = process.wait()
            if packets:
                self.write(struct.pack("<BIB", 3, 1, code & 255))
        except EOFError:
            # The cable is out: adbd closes the input and goes; what still runs, runs to its end.
            with contextlib.suppress(OSError, ValueError):
                stdin.close()
        finally:
            stdout.close()
            stderr.close()
            with contextlib.suppress(OSError, ValueError):
                stdin.close()
            threading.Thread(target=process.wait, daemon=True).start()

    def _sync(self) -> None:
        phone = self._connection.phone
        while True:
            request = self.read(4)
            (size,) = struct.unpack("<I", self.read(4))
            name = self.read(size).decode()
            if request == b"QUIT":
                return
            if request in (b"STAT", b"STA2", b"LST2"):
                self.write(_stat(request, phone.place(name)))
            elif request == b"SEND":
                path, _, mode = name.rpartition(",")
                self._receive(phone.place(path), int(mode))
            elif request == b"RECV":
                self._deliver(phone.place(name))
            else:
                text = b"unknown request"
                self.write(b"FAIL" + struct.pack("<I", len(text)) + text)

    def _receive(self, path: Path, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while self.read(4) == b"DATA":
                (size,) = struct.unpack("<I", self.read(4))
                file.write(self.read(size))
            self.read(4)  # the time of DONE
        path.chmod(stat.S_IMODE(mode) or 0o644)
        self.write(b"OKAY" + struct.pack("<I", 0))

    def _deliver(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            text = str(error).encode()
            self.write(b"FAIL" + struct.pack("<I", len(text)) + text)
            return
        for start in range(0, len(content), 65536):
            part = content[start : start + 65536]
            self.write(b"DATA" + struct.pack("<I", len(part)) + part)
        self.write(b"DONE" + struct.pack("<I", 0))


def _stat(request: bytes, path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError as error:
        if request == b"STAT":
            return b"STAT" + struct.pack("<3I", 0, 0, 0)
        return request + struct.pack("<IQQIIIIQqqq", error.errno or 2, *([0] * 10))
    if request == b"STAT":
        return b"STAT" + struct.pack("<3I", found.st_mode, found.st_size, int(found.st_mtime))
    return request + struct.pack(
        "<IQQIIIIQqqq", 0, found.st_dev, found.st_ino, found.st_mode, found.st_nlink, 0, 0,
        found.st_size, int(found.st_atime), int(found.st_mtime), int(found.st_ctime),
    )  # fmt: skip


@contextlib.contextmanager
def adb_server(home: Path) -> Iterator[None]:
    """An adb server of its own for the block: another port and home, not the user's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: os.environ.get(name) for name in ("ANDROID_ADB_SERVER_PORT", "HOME")}
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(port)
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, timeout=20, check=False)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def connect(phone: Phone) -> None:
    """Make the client know the phone."""
    subprocess.run(["adb", "connect", phone.serial], capture_output=True, timeout=30, check=True)


ADB = shutil.which("adb")

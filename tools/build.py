#!/usr/bin/env python3
"""
Makes the real programs that the tests, the demo and the linters run: a control plane, Prometheus, and three commands.

None of them is published where a plain package index reaches, so they are compiled from their Go modules. The one
idea: a folder beside this file is a component, its go.mod names the version and its go.sum pins every byte, and the
hash of both is the name of its place in the cache. Whoever bumps one component rebuilds that one only, a second run
has nothing to do, and several checkouts share what was built.

Standard library only: this runs before there is a virtual environment. `sandbox.real.tools` loads this file to find
what was built, so importing it does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = "1"  # raise it when the way of building changes in a manner the files hashed below do not show
HEARTBEAT_SECONDS = 60.0  # a silent compile of minutes looks like a hang in a CI log
LAST_LINES = 15


@dataclass(frozen=True)
class Component:
    """One folder of tools/: a module, the binaries made from it, and what a person may want to know while waiting."""

    name: str
    module: str
    packages: dict[str, str]  # binary name -> Go package
    about: str
    wait: str
    tags: tuple[str, ...] = ()
    stamp: dict[str, str] = field(default_factory=dict)  # Go variable -> template over {version}, {major}, {minor}
    packaged: str | None = None  # a Debian package that holds the same binaries, taken when PATH has them not
    from_path: bool = False  # whether the machine's own copy will do
    from_assets: bool = False  # whether KUBEBUILDER_ASSETS may hold it

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def version(self) -> str:
        """The version in go.mod, which is the only place that says it."""
        found = re.search(rf"^(?:require)?\s*{re.escape(self.module)} (v\S+)", self._read("go.mod"), re.MULTILINE)
        if found is None:
            raise BuildError(self.name, f"{self.folder / 'go.mod'} requires no {self.module}", "restore that line")
        return found.group(1)

    @property
    def home(self) -> Path:
        """The folder of the cache that holds this component, whether it was built already or not."""
        hashed = hashlib.sha256()
        for part in (RECIPE, platform.system(), platform.machine(), self._read("go.mod"), self._read("go.sum")):
            hashed.update(part.encode() + b"\0")
        for name, package in sorted(self.packages.items()):
            hashed.update(f"{name}={package}".encode() + b"\0")
        hashed.update(" ".join((*self.tags, *self.link_flags)).encode())
        return cache() / f"{self.name}-{self.version}-{hashed.hexdigest()[:12]}" / "bin"

    @property
    def link_flags(self) -> tuple[str, ...]:
        major, minor, *_ = re.findall(r"\d+", self.version)
        values = {"version": self.version, "major": major, "minor": minor}
        return ("-s", "-w", *(f"-X={name}={text.format_map(values)}" for name, text in self.stamp.items()))

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text()
        except OSError as error:
            raise BuildError(self.name, f"cannot read {self.folder / name}: {error.strerror}", "restore it") from None


# Quick ones first: the linters need them, and a mistake in the set-up shows within seconds rather than minutes.
COMPONENTS: tuple[Component, ...] = (
    Component(
        name="buf",
        module="github.com/bufbuild/buf",
        packages={"buf": "github.com/bufbuild/buf/cmd/buf"},
        about="lints the protos",
        wait="a minute",
    ),
    Component(
        name="helm",
        module="helm.sh/helm/v3",
        packages={"helm": "helm.sh/helm/v3/cmd/helm"},
        about="lints and renders the chart",
        wait="two minutes",
        stamp={"helm.sh/helm/v3/internal/version.version": "{version}"},
    ),
    Component(
        name="grpcurl",
        module="github.com/fullstorydev/grpcurl",
        packages={"grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl"},
        about="calls the services from a shell",
        wait="half a minute",
        stamp={"main.version": "{version}"},
    ),
    Component(
        name="etcd",
        module="go.etcd.io/etcd/server/v3",
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
        about="holds what kube-apiserver stores",
        wait="half a minute",
        from_assets=True,
    ),
    Component(
        name="prometheus",
        module="github.com/prometheus/prometheus",
        packages={
            "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
            "promtool": "github.com/prometheus/prometheus/cmd/promtool",
        },
        about="scrapes and answers queries; promtool checks rules",
        wait="a few minutes, where no Debian package is to be had",
        # Without service discovery for the clouds it compiles in a fraction of the time, and tests scrape loopback.
        tags=("remove_all_sd",),
        stamp={"github.com/prometheus/common/version.Version": "{version}"},
        packaged="prometheus",
        from_path=True,
    ),
    Component(
        name="kube-apiserver",
        module="k8s.io/kubernetes",
        packages={"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver"},
        about="a real Kubernetes API",
        wait="4 to 7 minutes on 2 cores",
        stamp={
            "k8s.io/component-base/version.gitVersion": "{version}",
            "k8s.io/component-base/version.gitMajor": "{major}",
            "k8s.io/component-base/version.gitMinor": "{minor}",
            "k8s.io/component-base/version.gitTreeState": "clean",
        },
        from_assets=True,
    ),
)


class BuildError(Exception):
    """A component that cannot be made: which, why, and what to do about it. One line each."""

    def __init__(self, component: str, problem: str, advice: str, output: str = "") -> None:
        super().__init__(f"{component}: {problem}; {advice}")
        self.output = output


def cache() -> Path:
    """Outside the checkout, so that a clean clone need not compile again."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "couchestor" / "tools"


def names() -> list[str]:
    """Every binary that this file knows, in the order of building."""
    return [binary for component in COMPONENTS for binary in component.packages]


def component_of(name: str) -> Component:
    """The component that is called `name` or makes a binary of that name.

    Raises BuildError if there is none.
    """
    for component in COMPONENTS:
        if name == component.name or name in component.packages:
            return component
    raise BuildError(name, "no such tool", f"known are {', '.join(names())}")


def find(name: str) -> Path | None:
    """Where the binary `name` is now: KUBEBUILDER_ASSETS, the cache, PATH (Prometheus only); None if nowhere.

    An etcd or a kube-apiserver on PATH is left alone: it can be years old, and tests are to mean the same everywhere.
    """
    component = component_of(name)
    binary = name if name in component.packages else next(iter(component.packages))
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if component.from_assets and assets and executable(Path(assets) / binary):
        return Path(assets).resolve() / binary
    if executable(component.home / binary):
        return component.home / binary
    if component.from_path and (on_path := shutil.which(binary)):
        return Path(on_path)
    return None


def executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def make(component: Component) -> str:
    """Make what is missing of a component; returns a line's worth of what was done. Raises BuildError."""
    if all(find(binary) for binary in component.packages):
        return f"ready, {find(next(iter(component.packages)))}"
    with lock(component):
        if all(find(binary) for binary in component.packages):  # somebody else made it while we waited for the lock
            return "ready, made meanwhile by another run"
        if component.packaged and (taken := from_debian(component, component.packaged)):
            return taken
        return from_go(component)


def from_go(component: Component) -> str:
    """Compile every binary of the component and move it into the cache. Raises BuildError."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            component.name,
            "there is no `go` on PATH",
            "install Go 1.21 or newer (it fetches the one a module asks for)",
        )
    started = time.monotonic()
    with workplace(component) as work:
        for binary, package in component.packages.items():
            command = [go, "build", "-trimpath", "-buildvcs=false", f"-ldflags={' '.join(component.link_flags)}"]
            if component.tags:
                command.append(f"-tags={','.join(component.tags)}")
            run(component, [*command, "-o", str(work / binary), package], cwd=component.folder, env=go_environment())
        install(component, work)
    return f"built in {elapsed(started)}"


def go_environment() -> dict[str, str]:
    """Only what go.mod and go.sum say, and no C compiler: the same source gives the same bytes."""
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def from_debian(component: Component, package: str) -> str | None:
    """Take the binaries out of a Debian package, or None where that does not work and the source is to be compiled.

    The package is unpacked into the cache, not installed: no daemon starts, nothing of the machine changes.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    started = time.monotonic()
    try:
        with workplace(component) as work:
            if os.geteuid() == 0:
                with contextlib.suppress(BuildError):  # old lists may still do; if not, the download says so
                    run(component, ["apt-get", "update", "-qq"], cwd=work)
            # As root, apt drops to a user of its own and wants a folder that this user may write to.
            run(component, ["apt-get", "-o", "APT::Sandbox::User=", "download", "-qq", package], cwd=work)
            archive = next(work.glob("*.deb"))
            run(component, ["dpkg-deb", "-x", str(archive), "unpacked"], cwd=work)
            for binary in component.packages:
                (work / "unpacked" / "usr" / "bin" / binary).replace(work / binary)
            install(component, work)
            return f"taken from the Debian package {archive.stem} in {elapsed(started)}"
    except (BuildError, StopIteration, OSError) as error:
        reason = str(error).splitlines()[0] or type(error).__name__
        say(component, f"no Debian package here ({reason}), so it is compiled instead: {component.wait}")
        return None


def install(component: Component, work: Path) -> None:
    """Put finished binaries where they are looked for. A rename, so nobody ever runs half a file."""
    component.home.mkdir(parents=True, exist_ok=True)
    for binary in component.packages:
        (work / binary).chmod(0o755)
        (work / binary).replace(component.home / binary)


@contextlib.contextmanager
def lock(component: Component) -> Iterator[None]:
    """One build of a component at a time on this machine; a second run waits and then finds it made."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{component.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workplace(component: Component) -> Iterator[Path]:
    """A temporary folder on the cache's own file system (a rename across two is no rename), removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{component.name}-", dir=cache()) as work:
        yield Path(work)


def run(component: Component, command: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run one command quietly, with a sign of life each minute. Raises BuildError with its last lines if it fails."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    status = process.wait(HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(component, f"still at it after {elapsed(started)}")
        finally:
            if process.poll() is None:  # interrupted: leave no compiler behind
                process.terminate()
                process.wait()
        if status != 0:
            output.seek(0)
            last = "".join(output.readlines()[-LAST_LINES:]).rstrip()
            name = " ".join([Path(command[0]).name, *command[1:2]])
            raise BuildError(component.name, f"`{name}` in {cwd} ended with {status}", advice(last), last)


def advice(output: str) -> str:
    """What to do about the commonest failures; the first that matches."""
    for pattern, what in (
        (r"no space left", f"make room (a full build takes some 5 GB in Go's cache and {cache()})"),
        (
            r"go.mod requires go >=|toolchain not available|unknown directive|invalid go version",
            "install a newer Go, or let Go 1.21+ fetch it (GOTOOLCHAIN=auto)",
        ),
        (
            r"dial tcp|timeout|no such host|connection refused|TLS|Bad Gateway",
            "check that Go modules can be fetched (`go env GOPROXY`) and run this again",
        ),
        (r"missing go.sum entry|updates to go.mod needed", "run `go mod tidy` in that folder and commit both files"),
        (r"checksum mismatch|SECURITY ERROR", "do not go on: what was fetched differs from what go.sum pins"),
        (r"signal: killed|cannot allocate memory", "give it more memory (4 GB) or set GOMAXPROCS=1"),
    ):
        if re.search(pattern, output, re.IGNORECASE):
            return what
    return "see the output above and run this again"


def elapsed(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60):02d}s"


def say(component: Component, text: str) -> None:
    print(f"tools: {component.name} {component.version}: {text}", flush=True)


def build(components: list[Component]) -> int:
    """Make each in turn, one line as it ends; one that fails does not keep the others from being made."""
    failed = []
    for component in components:
        started = time.monotonic()
        try:
            if not all(find(binary) for binary in component.packages):
                say(component, f"making it, which takes {component.wait}")
            say(component, make(component))
        except BuildError as error:
            print(error.output, file=sys.stderr)
            print(f"tools: {error} (after {elapsed(started)})", file=sys.stderr, flush=True)
            failed.append(component.name)
    if failed:
        print(f"tools: not made: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def arguments() -> argparse.ArgumentParser:
    table = "\n".join(f"  {', '.join(c.packages):22}{c.version:12}{c.about} ({c.wait})" for c in COMPONENTS)
    parser = argparse.ArgumentParser(
        prog="tools/build.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Makes the real programs that tests, demo and linters run, and tells where they are.",
        epilog=f"""tools:
{table}

Each is compiled from the Go module that tools/<name>/go.mod pins; Prometheus is taken from PATH, else from the
Debian package (unpacked, not installed), else compiled too. What is there already is left alone, so a second run
takes no time.

environment:
  XDG_CACHE_HOME        the binaries are in $XDG_CACHE_HOME/couchestor/tools; without it in
                        {cache()}
  KUBEBUILDER_ASSETS    a folder that holds kube-apiserver and etcd; those are then used, not made

examples:
  tools/build.py                        make everything that is missing
  tools/build.py --only buf helm        only what the linters want
  $(tools/build.py --print grpcurl) -plaintext 127.0.0.1:50051 list""",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make only these")
    parser.add_argument(
        "--print",
        metavar="NAME",
        dest="wanted",
        help="print where a tool is and make nothing; exit 1 if it is not made yet",
    )
    parser.add_argument("--list", action="store_true", help="print every tool and where it is, and make nothing")
    return parser


def main() -> int:
    try:
        options = arguments().parse_args()
        if options.wanted:
            path = find(options.wanted)
            if path is None:
                raise BuildError(
                    options.wanted, "not made yet", f"run `make tools` or `tools/build.py --only {options.wanted}`"
                )
            print(path)
            return 0
        if options.list:
            for name in names():
                print(f"{name:16}{find(name) or '-'}")
            return 0
        wanted = {component_of(name).name for name in options.only or names()}
        return build([component for component in COMPONENTS if component.name in wanted])
    except BuildError as error:
        print(f"tools: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""`tools/build.py`: what is there is left alone, what fails says what to do, nothing half-made is ever found."""

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.real.tools import BUILD_SCRIPT, ToolMissingError, find_tool, tool
from tests import real

FAKE_GO = """#!/bin/sh
echo "$@" >> "$GO_CALLS"
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho built\\n' > "$2"
"""
BROKEN_GO = """#!/bin/sh
case "$*" in *grpcurl*) for i in $(seq 40); do echo "line $i"; done; echo "dial tcp: i/o timeout"; exit 1;; esac
while [ "$1" != -o ]; do shift; done
echo > "$2"
"""


class Machine:
    """A machine with an empty cache and nothing on PATH but what a test puts there."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.cache = directory / "cache"
        self.calls = directory / "calls"
        self.bin.mkdir()
        for name in ("sh", "seq"):
            (self.bin / name).symlink_to(Path("/bin") / name if (Path("/bin") / name).exists() else f"/usr/bin/{name}")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(directory),
            "XDG_CACHE_HOME": str(self.cache),
            "GO_CALLS": str(self.calls),
        }

    def has(self, name: str, text: str = "#!/bin/sh\n", *, where: Path | None = None) -> Path:
        path = (where or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def build(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BUILD_SCRIPT), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_help_names_every_tool_and_the_environment(machine: Machine) -> None:
    shown = machine.build("--help").stdout
    for word in (
        "kube-apiserver",
        "etcd",
        "grpcurl",
        "buf",
        "helm",
        "promtool",
        "XDG_CACHE_HOME",
        "KUBEBUILDER_ASSETS",
    ):
        assert word in shown


def test_a_tool_that_is_not_made_is_not_found_and_the_answer_says_what_to_do(machine: Machine) -> None:
    answer = machine.build("--print", "etcd")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "tools: etcd: not made yet; run `make tools` or `tools/build.py --only etcd`\n"


def test_an_unknown_tool_is_refused_by_name(machine: Machine) -> None:
    answer = machine.build("--only", "kubelet")
    assert answer.returncode == 1
    assert "kubelet: no such tool" in answer.stderr


def test_without_go_the_error_names_the_component_and_what_to_install(machine: Machine) -> None:
    answer = machine.build("--only", "buf")
    assert answer.returncode == 1
    assert "buf: there is no `go` on PATH; install Go" in answer.stderr


def test_a_tool_is_made_once_and_then_found(machine: Machine) -> None:
    machine.has("go", FAKE_GO)
    assert machine.build("--only", "buf").returncode == 0
    path = Path(machine.build("--print", "buf").stdout.strip())
    assert path.is_relative_to(machine.cache / "couchestor" / "tools")
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "built\n"
    again = machine.build("--only", "buf")
    assert "ready" in again.stdout
    assert len(machine.calls.read_text().splitlines()) == 1


def test_only_makes_only_what_is_asked_for(machine: Machine) -> None:
    machine.has("go", FAKE_GO)
    assert machine.build("--only", "helm", "buf").returncode == 0
    listed = dict(line.split(maxsplit=1) for line in machine.build("--list").stdout.splitlines())
    assert {name for name, path in listed.items() if path != "-"} == {"buf", "helm"}


def test_a_build_takes_nothing_but_what_the_module_pins(machine: Machine) -> None:
    seen = machine.cache.parent / "seen"
    machine.environment |= {"GOFLAGS": "-mod=mod", "CGO_ENABLED": "1", "SEEN": str(seen)}
    machine.has("go", FAKE_GO.replace("while", 'echo "$GOFLAGS $CGO_ENABLED $GOWORK" > "$SEEN"\nwhile', 1))
    assert machine.build("--only", "buf").returncode == 0
    assert seen.read_text() == "-mod=readonly 0 off\n"
    assert "-trimpath" in machine.calls.read_text()


def test_a_failed_build_shows_the_last_lines_leaves_nothing_and_does_not_stop_the_others(machine: Machine) -> None:
    machine.has("go", BROKEN_GO)
    answer = machine.build("--only", "grpcurl", "etcd")
    assert answer.returncode == 1
    assert "line 40\ndial tcp: i/o timeout\n" in answer.stderr
    assert "line 20\n" not in answer.stderr
    assert "tools: grpcurl: `go build`" in answer.stderr
    assert "check that Go modules can be fetched" in answer.stderr
    assert "tools: not made: grpcurl" in answer.stderr
    assert machine.build("--print", "grpcurl").returncode == 1
    assert machine.build("--print", "etcd").returncode == 0
    assert not [path for path in (machine.cache / "couchestor" / "tools").iterdir() if path.name.startswith(".")]


def test_what_kubebuilder_assets_holds_is_used_and_not_made(machine: Machine) -> None:
    assets = machine.cache.parent / "assets"
    for name in ("etcd", "kube-apiserver"):
        machine.has(name, where=assets)
    machine.environment["KUBEBUILDER_ASSETS"] = str(assets)
    assert machine.build("--only", "etcd", "kube-apiserver").returncode == 0
    assert machine.build("--print", "kube-apiserver").stdout.strip() == str(assets / "kube-apiserver")


def test_an_etcd_on_path_is_not_taken_but_a_prometheus_is(machine: Machine) -> None:
    for name in ("etcd", "prometheus", "promtool"):
        machine.has(name)
    assert machine.build("--print", "etcd").returncode == 1
    assert machine.build("--only", "promtool").returncode == 0
    assert machine.build("--print", "prometheus").stdout.strip() == str(machine.bin / "prometheus")


APT = """#!/bin/sh
case "$*" in *update*) exit 100;; *download*) echo > prometheus_2.42.0_amd64.deb;; esac
"""
DPKG = """#!/bin/sh
mkdir -p unpacked/usr/bin
for name in prometheus promtool; do echo "from $2" > unpacked/usr/bin/$name; done
"""


def test_prometheus_is_unpacked_from_its_debian_package_where_there_is_one(machine: Machine) -> None:
    (machine.bin / "mkdir").symlink_to("/bin/mkdir")
    machine.has("apt-get", APT)
    machine.has("dpkg-deb", DPKG)
    answer = machine.build("--only", "prometheus")
    assert answer.returncode == 0, answer.stderr
    assert "taken from the Debian package prometheus_2.42.0_amd64" in answer.stdout
    promtool = Path(machine.build("--print", "promtool").stdout.strip())
    assert promtool.is_relative_to(machine.cache)
    assert promtool.read_text().endswith("prometheus_2.42.0_amd64.deb\n")


def test_prometheus_is_compiled_where_its_debian_package_is_not_to_be_had(machine: Machine) -> None:
    machine.has("apt-get", "#!/bin/sh\nexit 100\n")
    machine.has("dpkg-deb", DPKG)
    machine.has("go", FAKE_GO)
    answer = machine.build("--only", "prometheus")
    assert answer.returncode == 0, answer.stderr
    assert "no Debian package here" in answer.stdout
    assert Path(machine.build("--print", "promtool").stdout.strip()).read_text().startswith("#!/bin/sh")


@pytest.fixture
def bare(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in ("PATH", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, machine.environment[name])
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("REQUIRE_REAL", raising=False)
    monkeypatch.setattr(real, "SKIPPED", set())
    return machine


def test_the_sandbox_finds_what_the_script_finds(bare: Machine) -> None:
    assert find_tool("prometheus") is None
    with pytest.raises(ToolMissingError, match="prometheus: not on this machine; run `make tools`"):
        tool("prometheus")
    assert find_tool("prometheus") is None
    there = bare.has("prometheus")
    assert tool("prometheus") == there


def test_a_test_that_wants_a_missing_program_is_skipped_and_remembered(bare: Machine) -> None:
    bare.has("prometheus")
    with pytest.raises(pytest.skip.Exception, match="etcd, kube-apiserver: not on this machine"):
        real.require_real("prometheus", "etcd", "kube-apiserver")
    assert sorted(real.SKIPPED) == ["etcd", "kube-apiserver"]


def test_with_require_real_it_fails_instead(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match="forbids to skip"):
        real.require_real("etcd")


def test_a_module_folder_names_one_tool_and_pins_every_byte() -> None:
    folders = [path.parent for path in BUILD_SCRIPT.parent.glob("*/go.mod")]
    assert {folder.name for folder in folders} == {"buf", "etcd", "grpcurl", "helm", "kube-apiserver", "prometheus"}
    for folder in folders:
        assert (folder / "go.sum").stat().st_size > 0
        assert "toolchain" not in (folder / "go.mod").read_text()

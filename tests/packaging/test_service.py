"""The pages that make services of the program: their lines are typed by root, where nothing that they change stays.

systemd alone is not there: `systemctl` and `journalctl` do nothing, and the service's command is run as its unit says.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from installs import ROOT
from support import Tiers, tierkeeper_toml

POLICY = ({"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"},)
ROWS = b"""
CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO public.t SELECT i, now() - interval '40 days' FROM generate_series(1, 500) AS i;
"""
CERTIFICATE = "/etc/ssl/certs/of-the-tiers.crt"
AS_TIERKEEPER = "setpriv --reuid tierkeeper --regid tierkeeper --clear-groups "
APART = """
for folder in etc usr/local var/lib srv; do
    mkdir -p "$SCRATCH/$folder/upper" "$SCRATCH/$folder/work" "/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$SCRATCH/$folder/upper,workdir=$SCRATCH/$folder/work" overlay "/$folder"
done
"""
AS_THE_UNIT_SAYS = r"""
unit() { sed -n "s/^$1=//p" "/etc/systemd/system/$2" | sed "s|%S|/var/lib|g"; }
as_service() {
    (cd /var/lib/tierkeeper && setpriv --reuid tierkeeper --regid tierkeeper --clear-groups --no-new-privs \
        env -i PATH=/usr/bin:/bin $(unit Environment "$1") $2 $3)
}
"""
SCHEDULE = """
[ "$(unit ExecStart tierkeeper.service)" = "/usr/local/bin/tierkeeper run" ]
as_service tierkeeper.service "$(cat /etc/tierkeeper/environment)" "/usr/local/bin/tierkeeper quota"
"""
HOME_SERVER = """
as_service tierkeeper-homeserver.service "" "$(unit ExecStart tierkeeper-homeserver.service)" > "$SCRATCH/served" &
until grep HOME_SERVER_URL "$SCRATCH/served"; do sleep 0.1; done
pkill --full --uid tierkeeper "tierkeeper homeserver"
wait
[ "$(ls -A /srv/tierkeeper)" = server ]
"""
KEPT = ("PIP_INDEX_URL", "PIP_CERT", "PIP_FIND_LINKS", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "PATH")


def lines(page: str, word: str) -> str:
    (block,) = (b for b in re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/howto" / page).read_text(), re.M | re.S) if word in b)
    return block


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_the_lines_make_services_that_work(tiers: Tiers, tmp_path: Path) -> None:
    with closing(tiers.core.connect("app")) as core:
        core.execute(ROWS)
    home, shims = tmp_path / "home", tmp_path / "bin"
    project = home / "project"
    for name in ("pyproject.toml", "README.md", "LICENSE", *(f.name for f in ROOT.glob("*.py"))):
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project)
    for name in ("src", "deploy"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    _write_the_configuration(tiers, project)
    shims.mkdir()
    for name, text in (
        ("sudo", f'PATH={shims}:/usr/sbin:/usr/bin:/sbin:/bin exec "$@"'),
        ("systemctl", "exit 0"),
        ("journalctl", "exit 0"),
    ):
        (shims / name).write_text(f"#!/bin/sh\n{text}\n")
        (shims / name).chmod(0o755)
    set_up = f"set -a; . ./.env; set +a; {Path(sys.executable).parent}/tierkeeper setup --apply"
    store = "install -d -m 700 -o tierkeeper -g tierkeeper /var/lib/tierkeeper/archive"
    served = lines("keep-the-archive-at-home.md", "/srv/tierkeeper").replace("sudo -u tierkeeper ", AS_TIERKEEPER)
    script = "\n".join((
        f"install -m 644 {tiers.core.sslrootcert} {CERTIFICATE}",
        "mkdir -p /var/lib/tierkeeper/archive", set_up, lines("let-it-run-by-itself.md", "useradd"), store,
        AS_THE_UNIT_SAYS, SCHEDULE, served, HOME_SERVER,
    ))  # fmt: skip
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HOME": str(home), "SCRATCH": str(tmp_path / "scratch")}
    environment["PATH"] = f"{shims}:{environment['PATH']}"
    (tmp_path / "scratch").mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-euo", "pipefail", "-c"]
    mounted = f'mount -t tmpfs -o mode=755 tmpfs "$SCRATCH"\n{APART}\n{script}'
    ran = subprocess.run(
        [*command, mounted], cwd=project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "HOME_SERVER_TOKEN=tk_" in ran.stdout
    with closing(tiers.main.connect("test")) as main:
        assert main.execute("SELECT count(*) FROM public.t").fetchone() == (500,)
    assert not Path("/etc/tierkeeper").exists()


def _write_the_configuration(tiers: Tiers, project: Path) -> None:
    """By the user's variables, with the certificate where the page says that it belongs."""
    text = tierkeeper_toml(tiers, POLICY).read_text()
    names = (
        ("CORE_SUPABASE_URL", tiers.core.url),
        ("MAIN_SUPABASE_URL", tiers.main.url),
        ("ARCHIVE_SUPABASE_URL", tiers.catalog.url),
    )
    for name, url in names:
        text = text.replace(f'"{url}"', f'"env:{name}"')
    text = text.replace(str(tiers.core.sslrootcert), CERTIFICATE).replace(f'"{tiers.store}"', '"env:ARCHIVE_PATH"')
    (project / "tierkeeper.toml").write_text(text)
    env = "".join(f"{name}={url}\n" for name, url in names)
    (project / ".env").write_text(f"{env}ARCHIVE_PATH=/var/lib/tierkeeper/archive\n")

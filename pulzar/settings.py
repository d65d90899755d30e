"""The table of every setting: section, name, kind, default, what it does, what it costs.

SETTINGS is the only list. From it follow the commented `server.conf` that ships (`server_conf`,
below), the names of the environment variables, the errors, and what `pulzar config` prints.
`config.py` reads the values.
"""

import textwrap
from collections.abc import Callable
from typing import Any

import msgspec

from pulzar.limits import (
    CLIENT_TIMEOUT_S_MAX,
    DISK_RESERVE_BYTES,
    EXTENSION_TIMEOUT_S_MAX,
    RETIRED_GRACE_S,
    SEGMENT_BYTES,
    UPLOAD_CHUNK_TIMEOUT_S,
)
from pulzar.setting_kinds import (
    LOG_LEVELS,
    parse_count,
    parse_duration,
    parse_engine,
    parse_extension_timeout,
    parse_host,
    parse_isolation,
    parse_kept,
    parse_log_level,
    parse_name,
    parse_path_or_auto,
    parse_port,
    parse_replicas,
    parse_segment_size,
    parse_size,
    parse_slots,
    parse_text,
    parse_timeout,
    parse_url,
    size_text,
)

ENVIRONMENT_PREFIX = "PULZAR_"
SECTIONS = ("server", "volume", "general", "jobs", "third_party", "backup")


# The table.


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    `field` is its name in Config.
    """

    section: str
    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    does: str
    costs: str
    unsure: str
    is_path: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    def __str__(self) -> str:
        return f"[{self.section}] {self.name}"


SETTINGS = (
    Setting(
        section="server",
        name="host",
        field="host",
        parse=parse_host,
        default="127.0.0.1",
        does="The address at which the server answers. 127.0.0.1 answers this machine only, "
        "0.0.0.0 every network that reaches it.",
        costs="There is no password and no encryption yet: whoever reaches this address reads, "
        "writes and deletes everything. Open it to an internal network that you trust, never to "
        "the Internet.",
        unsure="127.0.0.1.",
    ),
    Setting(
        section="server",
        name="port",
        field="port",
        parse=parse_port,
        default="9000",
        does="The TCP port at which the server answers. 0 takes a free one; the line that "
        "`pulzar up` prints says which.",
        costs="Nothing; a port below 1024 needs root.",
        unsure="9000.",
    ),
    Setting(
        section="server",
        name="client_timeout",
        field="client_timeout_s",
        parse=parse_timeout,
        default=f"{UPLOAD_CHUNK_TIMEOUT_S:.0f}s",
        does="How long a client may send or take no byte in the middle of a value. Then its "
        "request is ended; of an upload that did not come to its end, nothing is stored. At most "
        f"{CLIENT_TIMEOUT_S_MAX // 3600}h.",
        costs="If it is short, clients on a slow or broken network must begin again; if it is "
        "long, each client that went away without a word holds its memory or its file so long.",
        unsure="60s.",
    ),
    Setting(
        section="server",
        name="state_dir",
        field="master_dir",
        parse=parse_text,
        default="storage/master",
        does="Where `pulzar master` keeps the key of the cluster (cluster.key), who its members "
        "are, and its catalog. `pulzar up` keeps them in [volume] dir.",
        costs="Without cluster.key no volume can talk to the master: keep a copy of it. The rest "
        "is made anew from the volumes when it is lost.",
        unsure="storage/master.",
        is_path=True,
    ),
    Setting(
        section="server",
        name="advertise",
        field="advertise",
        parse=parse_url,
        default="auto",
        does="The URL at which volumes and clients reach the master, where it is not the one made "
        "of host and port: behind a forwarded port, or where host is 0.0.0.0.",
        costs="If it is wrong, clients that a volume sends back to the master do not find it.",
        unsure="auto.",
    ),
    Setting(
        section="server",
        name="replicas",
        field="replicas",
        parse=parse_replicas,
        default="1",
        does="How many volumes hold a key. PUT ...?replicas=N says it for one key. With fewer "
        "volumes than that, keys have as many copies as there are volumes, and the rest is made up "
        "for when more join.",
        costs="Each copy takes its space and its time: a write is acknowledged when all of its "
        "copies are durable. With 1, a volume that is lost takes its keys with it.",
        unsure="2, as soon as there are two volumes.",
    ),
    Setting(
        section="server",
        name="min_copies",
        field="min_copies",
        parse=parse_replicas,
        default="1",
        does="A write needs so many durable copies to be acknowledged, or as many as the key is to "
        "have, if that is less.",
        costs="With more than 1, writes are refused while too few volumes are online. With 1, a "
        "write may be acknowledged that only one volume has; the answer's Pulzar-Copies says so.",
        unsure="1.",
    ),
    Setting(
        section="server",
        name="lost_after",
        field="lost_after_s",
        parse=parse_duration,
        default="10m",
        does="When nothing was heard of a volume for so long, its keys are copied again elsewhere.",
        costs="If it is short, a volume that restarts slowly makes the others copy its data; if it "
        "is long, keys stay longer with fewer copies after a volume died.",
        unsure="10m.",
    ),
    Setting(
        section="volume",
        name="dir",
        field="data_dir",
        parse=parse_text,
        default="storage",
        does="Where to store the data. A relative path is relative to the site's folder, the one "
        "that holds config/. Inside, volume/ is your data, and the only part that a backup needs; "
        "volume.views/ and catalog.views/ are made anew from it when they are missing.",
        costs="A write is acknowledged when this disk says that it is durable, so this disk sets "
        "the pace of writing. On a file system that keeps nothing, such as a tmpfs /tmp, a restart "
        "of the machine loses everything.",
        unsure="storage, or a directory on the disk with the most room.",
        is_path=True,
    ),
    Setting(
        section="volume",
        name="host",
        field="volume_host",
        parse=parse_host,
        default="127.0.0.1",
        does="The address at which a volume that runs as a program of its own answers its master, "
        "the other volumes, and clients that are sent to it.",
        costs="As for [server] host: whoever reaches it reads the values on it.",
        unsure="127.0.0.1.",
    ),
    Setting(
        section="volume",
        name="port",
        field="volume_port",
        parse=parse_port,
        default="9001",
        does="The TCP port at which a volume that runs as a program of its own answers its master.",
        costs="Nothing. `pulzar up` runs master and volume in one process and does not use it.",
        unsure="9001.",
    ),
    Setting(
        section="volume",
        name="advertise",
        field="volume_advertise",
        parse=parse_url,
        default="auto",
        does="The URL at which the master, the other volumes and clients reach this volume, where "
        "it is not the one made of host and port.",
        costs="If it is wrong, the master does not find the volume, or clients do not.",
        unsure="auto.",
    ),
    Setting(
        section="volume",
        name="master",
        field="master_url",
        parse=parse_url,
        default="auto",
        does="The URL of the master of this volume. auto is the one made of [server] host and "
        "port.",
        costs="Nothing.",
        unsure="auto, with [server] host and port of the master.",
    ),
    Setting(
        section="volume",
        name="name",
        field="volume_name",
        parse=parse_name,
        default="auto",
        does="The name of this volume in /admin/network. auto is the name of the machine.",
        costs="Nothing. Two volumes that are online cannot have the same name.",
        unsure="auto, unless two volumes run on one machine.",
    ),
    Setting(
        section="volume",
        name="key_file",
        field="key_file",
        parse=parse_path_or_auto,
        default="auto",
        does="The file with the key of the cluster, a copy of the master's cluster.key. auto is "
        "cluster.key in [volume] dir, where the volume keeps it once it has it.",
        costs="Whoever can read this file can speak as a machine of the cluster.",
        unsure="auto; copy the master's cluster.key to [volume] dir.",
        is_path=True,
    ),
    Setting(
        section="volume",
        name="reserve",
        field="reserve_bytes",
        parse=parse_size,
        default=size_text(DISK_RESERVE_BYTES),
        does="How much of the disk stays free. When less is free, a PUT is answered 507 and "
        "stores nothing; reading, deleting and compaction go on.",
        costs="This much of the disk is never used for data. If it is too small, the disk may "
        "fill up until even a delete or a compaction, which gives space back, finds no room.",
        unsure="512MiB; at least twice the size of a segment.",
    ),
    Setting(
        section="volume",
        name="segment",
        field="segment_bytes",
        parse=parse_segment_size,
        default=size_text(SEGMENT_BYTES),
        does="The size of a segment, a file of the log. Segments that exist keep theirs.",
        costs="Smaller segments give back the space of deleted values sooner, but there are more "
        "files to open. One segment is reserved on disk in advance, however little is stored.",
        unsure="256MiB.",
    ),
    Setting(
        section="volume",
        name="retired_grace",
        field="retired_grace_s",
        parse=parse_duration,
        default=f"{RETIRED_GRACE_S // 3600}h",
        does="How long a file that compaction has replaced stays on disk.",
        costs="Deleted values give back their space only after this time. If it is shorter than "
        "the time that a copy of the data directory takes (tar, rsync), a copy made while the "
        "server runs may lack data.",
        unsure="24h.",
    ),
    Setting(
        section="jobs",
        name="dir",
        field="jobs_dir",
        parse=parse_text,
        default="jobs",
        does="Where the scripts are that jobs run: DIR/SCRIPT.py below it is launched by POST "
        "/launch_job/DIR/SCRIPT. A relative path is relative to the site's folder. The master "
        "reads it, and sends what is needed to the nodes.",
        costs="Whoever can write there runs programs on every node.",
        unsure="jobs.",
        is_path=True,
    ),
    Setting(
        section="jobs",
        name="slots",
        field="job_slots",
        parse=parse_slots,
        default="auto",
        does="How many jobs run on this node at a time. auto is as many as it has processors, 0 "
        "runs none here.",
        costs="Each slot is a process that stays, of about 12 MiB and what its scripts import. "
        "With more slots than processors, jobs and the store wait for each other.",
        unsure="auto.",
    ),
    Setting(
        section="jobs",
        name="engine",
        field="job_engine",
        parse=parse_engine,
        default="auto",
        does="Who chooses the node on which a job runs. local: each node asks the master for as "
        "many jobs as it has slots. dask: dask.distributed, with a scheduler beside the master and "
        "TLS between the nodes. auto is local for one node, and dask as soon as there are two.",
        costs="dask takes about 90 MiB beside the master and 60 MiB on each node, and a job takes "
        "a few milliseconds more. The nodes must reach a port of the master that the system "
        "chooses; a node that cannot goes on as with local.",
        unsure="auto.",
    ),
    Setting(
        section="jobs",
        name="memory",
        field="job_memory_bytes",
        parse=parse_size,
        default="0",
        does="How much memory the process of a job may have (RLIMIT_DATA). What goes beyond it is "
        "a MemoryError in the script. 0 is no limit.",
        costs="Without a limit one script can take all memory of a node, and the system may end "
        "any process there, the store too.",
        unsure="half of the machine's memory, divided by the number of slots.",
    ),
    Setting(
        section="jobs",
        name="isolation",
        field="job_isolation",
        parse=parse_isolation,
        default="warm",
        does="warm: a process runs one job after the other of one folder of scripts, as long as "
        "they succeed. fresh: each job has a process of its own, which ends with it.",
        costs="fresh takes the time in which Python starts and the script imports what it needs, "
        "about 0.05 s and more. With warm, what a script leaves in its modules is there for the "
        "next job.",
        unsure="warm.",
    ),
    Setting(
        section="jobs",
        name="keep",
        field="job_keep",
        parse=parse_kept,
        default="10000",
        does="How many jobs that have ended are kept, with their output and log; those of maps are "
        "kept with their map. The oldest ones go first.",
        costs="Each takes some hundred bytes of the master's memory.",
        unsure="10000.",
    ),
    Setting(
        section="jobs",
        name="keep_for",
        field="job_keep_s",
        parse=parse_duration,
        default="30d",
        does="How long a job that has ended is kept, if not too many came after it.",
        costs="nothing.",
        unsure="30d.",
    ),
    Setting(
        section="general",
        name="log_level",
        field="log_level",
        parse=parse_log_level,
        default="info",
        does=f"How much the server writes to its log on stderr: {', '.join(LOG_LEVELS)}.",
        costs="With warning or error you do not see where the data is, what was recovered at the "
        "start and what compaction did; debug writes more than a disk should keep for long.",
        unsure="info.",
    ),
    Setting(
        section="third_party",
        name="dir",
        field="third_party_dir",
        parse=parse_text,
        default="third_party",
        does="Where the extensions are: NAME.py in it answers at /third_party/NAME/. A relative "
        "path is relative to the site's folder. The master reads it; example and search, which "
        "come with Pulzar, answer as well, unless a file of that name is there.",
        costs="Whoever can write there runs programs beside the master.",
        unsure="third_party.",
        is_path=True,
    ),
    Setting(
        section="third_party",
        name="slots",
        field="third_party_slots",
        parse=parse_slots,
        default="auto",
        does="How many calls of extensions run at a time; more wait for their turn. auto is four "
        "for each processor, 0 answers none.",
        costs="Each slot that is needed is a process that stays, of about 12 MiB and what its "
        "extensions import.",
        unsure="auto.",
    ),
    Setting(
        section="third_party",
        name="timeout",
        field="third_party_timeout_s",
        parse=parse_extension_timeout,
        default="30s",
        does="How long an extension may take to answer. Then its process is ended, and the client "
        f"is answered 504. At most {EXTENSION_TIMEOUT_S_MAX // 60}m.",
        costs="If it is long, an extension that hangs holds its slot so long.",
        unsure="30s.",
    ),
    Setting(
        section="third_party",
        name="memory",
        field="third_party_memory_bytes",
        parse=parse_size,
        default="1GiB",
        does="How much memory the process of an extension may have (RLIMIT_DATA). What goes beyond "
        "it is a MemoryError in the extension. 0 is no limit.",
        costs="Without a limit one extension can take all memory of the machine, and the system "
        "may end any process there, the store too.",
        unsure="1GiB.",
    ),
    Setting(
        section="backup",
        name="backup_chunk",
        field="backup_chunk_records",
        parse=parse_count,
        default="1000",
        does="The number of records in one batch when a log is followed: by a master that "
        "restarts, or fills its catalog anew.",
        costs="Larger batches are faster and take more memory.",
        unsure="1000.",
    ),
)


# The file that ships.

PREFACE = """\
The settings of this site. Each stands here with its default; change the value, or delete the line \
to follow the default of later versions. The server reads this file when it starts.
An environment variable comes before this file (PULZAR_SERVER_PORT=9100 for [server] port), a flag \
of `pulzar up` before both (--port 9100). `pulzar config` shows what holds and where it comes from.
Sizes are written 64KiB, 512MiB, 2GiB; times 90s, 15m, 12h, 7d. Behind a # or ; is a comment.
"""


def server_conf() -> str:
    """The commented server.conf, from the table."""
    blocks = ["#\n".join(_comment(paragraph) for paragraph in PREFACE.splitlines())]
    for section in SECTIONS:
        rows = [setting for setting in SETTINGS if setting.section == section]
        if rows:
            blocks.append(f"[{section}]\n")
            blocks += [_block(setting) for setting in rows]
    return "\n".join(blocks)


def _block(setting: Setting) -> str:
    paragraphs = [setting.does]
    paragraphs.append(f"What it costs: {setting.costs}")
    paragraphs.append(f"If unsure: {setting.unsure}")
    return "".join(map(_comment, paragraphs)) + f"{setting.name} = {setting.default}\n"


def _comment(paragraph: str) -> str:
    lines = textwrap.wrap(paragraph, 78, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)

"""The settings of VariDB: master, volumes, log. settings.py has the whole table."""

from pulzar.limits import (
    CLIENT_TIMEOUT_S_MAX,
    DISK_RESERVE_BYTES,
    RETIRED_GRACE_S,
    SEGMENT_BYTES,
    UPLOAD_CHUNK_TIMEOUT_S,
)
from pulzar.setting import Setting
from pulzar.setting_kinds import (
    LOG_LEVELS,
    parse_duration,
    parse_host,
    parse_log_level,
    parse_name,
    parse_path_or_auto,
    parse_port,
    parse_replicas,
    parse_segment_size,
    parse_size,
    parse_text,
    parse_timeout,
    parse_url,
    size_text,
)

SETTINGS_OF_STORE = (
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
        "cluster.key in [volume] dir, where the volume keeps it once it has it, else that of a "
        "master of the same site.",
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
)

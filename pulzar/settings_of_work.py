"""The settings of what works beside VariDB: jobs, extensions, backup."""

from pulzar.limits import EXTENSION_TIMEOUT_S_MAX
from pulzar.setting import Setting
from pulzar.setting_kinds import (
    parse_any_text,
    parse_backup_type,
    parse_count,
    parse_duration,
    parse_engine,
    parse_extension_timeout,
    parse_interval,
    parse_isolation,
    parse_kept,
    parse_path_or_auto,
    parse_size,
    parse_slots,
    parse_snapshots,
    parse_switch,
    parse_text,
)

SETTINGS_OF_WORK = (
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
        name="active",
        field="backup_active",
        parse=parse_switch,
        default="no",
        does="yes: the master makes a backup of the whole cluster at each interval. Without it, "
        "`pulzar backup run` makes one.",
        costs="A process reads what is new on every volume, and writes it to the target.",
        unsure="yes, as soon as there is a place for it.",
    ),
    Setting(
        section="backup",
        name="type",
        field="backup_type",
        parse=parse_backup_type,
        default="directory",
        does="Where backups go: a directory of the machine of the master (another disk, or one "
        "that is mounted), s3, or sftp. For s3 the package s3fs is needed, for sftp paramiko.",
        costs="A directory on the disk of the data is lost with it.",
        unsure="directory.",
    ),
    Setting(
        section="backup",
        name="address",
        field="backup_address",
        parse=parse_any_text,
        default="",
        does="The directory, bucket/path for s3, or host/path for sftp; a URL such as "
        "s3://bucket/path says the type, too. A relative directory is relative to the site's "
        "folder.",
        costs="Nothing.",
        unsure="a directory on another machine's disk.",
    ),
    Setting(
        section="backup",
        name="user",
        field="backup_user",
        parse=parse_any_text,
        default="",
        does="The user for sftp, or the access key for s3.",
        costs="Nothing.",
        unsure="leave it empty where the system knows: ~/.ssh, ~/.aws.",
    ),
    Setting(
        section="backup",
        name="psw",
        field="backup_psw",
        parse=parse_any_text,
        default="",
        does="The password for sftp, or the secret key for s3. It may come from the environment, "
        "PULZAR_BACKUP_PSW, or from a file, psw_file.",
        costs="Whoever can read this file can read and remove the backups.",
        unsure="psw_file.",
        is_secret=True,
    ),
    Setting(
        section="backup",
        name="psw_file",
        field="backup_psw_file",
        parse=parse_path_or_auto,
        default="",
        does="A file that has the password, and nothing else, in place of psw.",
        costs="Nothing.",
        unsure="a file with mode 0600.",
        is_path=True,
    ),
    Setting(
        section="backup",
        name="interval",
        field="backup_interval_s",
        parse=parse_interval,
        default="24h",
        does="How long it is from one backup to the next, at least 1m. When the last one was made "
        "is what the target says.",
        costs="What was written since the last backup is lost where all volumes are.",
        unsure="24h.",
    ),
    Setting(
        section="backup",
        name="keep",
        field="backup_keep",
        parse=parse_snapshots,
        default="7",
        does="How many backups stay; older ones are removed, and what only they need.",
        costs="Deleted and replaced values stay in the target as long as a backup that has them.",
        unsure="7.",
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

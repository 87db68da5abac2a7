"""Files in and out: writing is all or nothing, and one run at a time writes an output."""

from bipft_compress.files.identity import (
    CHECKSUM,
    content_digest,
    differences,
    json_digest,
    sealed,
)
from bipft_compress.files.locks import output_lock
from bipft_compress.files.outputs import (
    atomic_directory,
    check_output,
    claim_output,
    claim_together,
    hidden_path,
    is_vacant,
    real_path,
    write_atomically,
)
from bipft_compress.files.reading import read_json, sha256
from bipft_compress.files.storage import storage_faults

__all__ = [
    "CHECKSUM",
    "atomic_directory",
    "check_output",
    "claim_output",
    "claim_together",
    "content_digest",
    "differences",
    "hidden_path",
    "is_vacant",
    "json_digest",
    "output_lock",
    "read_json",
    "real_path",
    "sealed",
    "sha256",
    "storage_faults",
    "write_atomically",
]

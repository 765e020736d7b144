"""The sound of an MP4, M4A or MOV file in memory that does not grow with its length (ISO/IEC 14496-12).

FFmpeg's demuxer holds the whole index, at 24 bytes and more for each packet: 60 MiB for eleven hours. Here the tables
stay in the file. FFmpeg is given a small file of the same headers and the first packets (`Track.head`), and so is still
the one who says what the track is, when it begins, and how much of its beginning is to be left out; all further packets
come from `Track.packets`. A file that is anything out of the ordinary is left to FFmpeg as a whole.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice

from .boxes import LATEST, RUN_BYTES, Box, Boxes, BrokenError, Read, SampleTables, Table, UnusualError, make_box, only

# At the top of a file without fragments: no moof, sidx or mfra.
_TOP = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"udta", b"pdin"})
_FRAGMENTED, _COMPRESSED = b"mvex", b"cmov"
# Sample entries of which a sample is a packet: not raw samples (QuickTime), nor encrypted ones (enca).
_FORMATS = frozenset({b"mp4a", b"alac", b"ac-3", b"Opus", b"fLaC"})
_ENTRY_BYTES = {0: 28, 1: 28 + 16, 2: 28 + 36}  # before its boxes, by version (QuickTime File Format)
# ISO/IEC 14496-1, 7.2.6: an ES_Descriptor (tag 3) without options, and in it a DecoderConfigDescriptor (4) that begins
# with the objectTypeIndication. A descriptor's size is one to four bytes, of which all but the last have the top bit.
_ESDS = re.compile(rb"[\0-\xff]{4}\x03[\x80-\xff]{0,3}[\0-\x7f]..[\0-\x1f]\x04[\x80-\xff]{0,3}[\0-\x7f](.)", re.DOTALL)
_ESDS_BYTES = 21
_AAC, _MP3 = b"\x40\x66\x67\x68", b"\x69\x6b"
_RESTLESS_ROWS = 3  # MP3 whose durations change more often is parsed anew by FFmpeg

_NOTE_BYTES = 100  # in which its name stands
_HEAD_PACKETS = 64
_HEAD_ROWS = 1_000


def find(read: Read, file_bytes: int) -> "Track | None":
    """The track that is to be heard; None for whatever is not plainly a file that can be read like this.

    The same bytes always get the same answer, whoever asks.

    Memory, time: headers only, about 100 KiB of them at most.
    """
    try:
        return _find(Boxes(read, file_bytes), read)
    except (UnusualError, struct.error):
        return None


class Track:
    """The packets of one audio track.

    Attributes:
        problem: why the last packets are missing; None as long as more may come, and if none are. Of others that are
            lost the times of those behind them tell.
    """

    def __init__(self, read: Read, file_bytes: int, headers: tuple[bytes, ...], tables: SampleTables) -> None:
        self.problem: str | None = None
        self._read = read
        self._file_bytes = file_bytes
        self._headers = headers
        self._tables = tables
        self._first_pts = 0
        self._packets = self._until_broken()

    def head(self) -> bytes:
        """A whole small file of this track alone that ends with the first packets. To be called once, before `packets`.

        Memory: 64 packets, at most 1.3 MiB.
        """
        sizes: list[int] = []
        data = bytearray()
        for packet, _ in islice(self._packets, _HEAD_PACKETS):
            sizes.append(len(packet))
            data += packet
            if len(data) >= RUN_BYTES:
                break
        durations = list(self._tables.durations.rows(_HEAD_ROWS))
        if self._tables.durations.count > _HEAD_ROWS:
            durations.append((0xFFFF_FFFF, 0xFFFF))  # so that the length is what the track's header says
        ftyp, mvhd, udta, tkhd, edts, mdhd, hdlr, dinf, stsd = self._headers

        def file(data_at: int) -> bytes:
            stbl = make_box(
                b"stbl",
                stsd,
                _table(b"stts", *(struct.pack(">II", *row) for row in durations)),
                _table(b"stsc", struct.pack(">III", 1, len(sizes), 1)),
                make_box(b"stsz", struct.pack(f">{3 + len(sizes)}I", 0, 0, len(sizes), *sizes)),
                _table(b"stco", struct.pack(">I", data_at)),
            )
            mdia = make_box(b"mdia", mdhd, hdlr, make_box(b"minf", dinf, stbl))
            moov = make_box(b"moov", mvhd, make_box(b"trak", tkhd, edts, mdia), udta)
            return ftyp + moov + make_box(b"mdat", bytes(data))

        return file(len(file(0)) - len(data))

    def packets(self, first_pts: int) -> Iterator[tuple[bytes, int]]:
        """What comes behind the head: each packet, which may be empty, with its time in the track's time base.

        Args:
            first_pts: what FFmpeg says of the head's first packet.

        Memory: one read of 256 KiB, or one packet of at most 1 MiB.
        """
        if abs(first_pts) > LATEST:
            self.problem = "its edit list gives impossible times"
            return iter(())
        self._first_pts = first_pts
        return self._packets

    def _until_broken(self) -> Iterator[tuple[bytes, int]]:
        try:
            for data, time in self._tables.samples(self._read, self._file_bytes):
                yield data, self._first_pts + time
        except BrokenError as error:
            self.problem = str(error)


def _find(boxes: Boxes, read: Read) -> Track:
    top = boxes.within(boxes.file)
    if not top or top[0].kind != b"ftyp" or not {box.kind for box in top} <= _TOP:
        raise UnusualError
    ftyp = boxes.copy(only(top, b"ftyp"))
    moov = boxes.within(only(top, b"moov"))
    if any(box.kind in (_FRAGMENTED, _COMPRESSED) for box in moov):
        raise UnusualError
    trak, parts, mdia = _choose(boxes, [box for box in moov if box.kind == b"trak"])
    minf = boxes.within(only(mdia, b"minf"))
    stbl = boxes.within(only(minf, b"stbl"))
    stsd, stts = only(stbl, b"stsd"), boxes.table(only(stbl, b"stts"), ">II")
    tables = _tables(boxes, stbl, stts)
    _check_data_reference(boxes, only(minf, b"dinf"))
    _check_format(boxes, stsd, may_be_mp3=b"qt  " not in ftyp and stts.count <= _RESTLESS_ROWS)
    edts = [box for box in parts if box.kind == b"edts"]
    headers = (
        ftyp,
        boxes.copy(only(moov, b"mvhd")),
        _priming(boxes, moov, trak),
        boxes.copy(only(parts, b"tkhd")),
        boxes.copy(only(edts, b"edts")) if edts else b"",
        boxes.copy(only(mdia, b"mdhd")),
        boxes.copy(only(mdia, b"hdlr")),
        boxes.copy(only(minf, b"dinf")),
        boxes.copy(stsd),
    )
    return Track(read, boxes.file.end, headers, tables)


def _choose(boxes: Boxes, traks: list[Box]) -> tuple[Box, list[Box], list[Box]]:
    """The audio track that FFmpeg's `av_find_best_stream` takes, with what is in it and in its mdia."""
    found, enabled = [], []
    for trak in traks:
        parts = boxes.within(trak)
        mdia = boxes.within(only(parts, b"mdia"))
        if boxes.content(only(mdia, b"hdlr"), 4, 8) != b"soun":
            continue
        found.append((trak, parts, mdia))
        if boxes.content(only(parts, b"tkhd"), 4)[3] & 1:  # track_enabled (8.3.2.3)
            enabled.append(found[-1])
    if len(found) > 1:
        # It prefers what is enabled, and what is not meant for the blind or deaf (a `kind` says so); else it guesses.
        udta = [box for _, parts, _ in found for box in parts if box.kind == b"udta"]
        if any(box.kind == b"kind" for each in udta for box in boxes.within(each)):
            raise UnusualError
        found = enabled
    if len(found) != 1:
        raise UnusualError
    return found[0]


def _tables(boxes: Boxes, stbl: list[Box], stts: Table) -> SampleTables:
    if any(box.kind in (b"ctts", b"cslg") for box in stbl):  # audio that is decoded in another order than heard
        raise UnusualError
    stsz, stco = only(stbl, b"stsz", b"stz2"), only(stbl, b"stco", b"co64")
    size, count = struct.unpack(">II", boxes.content(stsz, 8, 4))
    row = ">I"
    if stsz.kind == b"stz2":  # in place of a size: of how many bits the rows are (8.7.3.3)
        row, size = {8: ">B", 16: ">H"}.get(size, ""), 0
    if not row:
        raise UnusualError
    tables = SampleTables(
        durations=stts,
        chunks=boxes.table(stco, ">I" if stco.kind == b"stco" else ">Q"),
        per_chunk=boxes.table(only(stbl, b"stsc"), ">III"),
        sizes=None if size else boxes.table(stsz, row, count_at=8),
        size=size,
        count=count,
    )
    if not (count and stts.count and tables.chunks.count):
        raise UnusualError
    if next(tables.per_chunk.rows(), (0,))[0] != 1:  # of chunks before its first row FFmpeg makes something, too
        raise UnusualError
    if stts.count == 1 and next(stts.rows(), (0, 1))[1] == 1:  # raw samples, or what QuickTime counts like them
        raise UnusualError
    return tables


def _check_data_reference(boxes: Boxes, dinf: Box) -> None:
    """All media data is in this file (8.7.2)."""
    references = boxes.within(only(boxes.within(dinf), b"dref"), 8)
    if not references or not all(boxes.content(box, 4)[3] & 1 for box in references):
        raise UnusualError


def _check_format(boxes: Boxes, stsd: Box, *, may_be_mp3: bool) -> None:
    """There is one sample entry (8.5.2, 12.2.3), and a packet in each sample."""
    entries = boxes.within(stsd, 8)
    entry = only(entries, *_FORMATS)
    if len(entries) != 1 or boxes.content(stsd, 4, 4) != b"\0\0\0\1":
        raise UnusualError
    if entry.kind != b"mp4a":
        return
    (version,) = struct.unpack(">H", boxes.content(entry, 2, 8))
    if version not in _ENTRY_BYTES or (version and boxes.content(stsd, 1) != b"\0"):  # ISO's version 1 is another one
        raise UnusualError
    within = boxes.within(entry, _ENTRY_BYTES[version])
    within += [each for box in within if box.kind == b"wave" for each in boxes.within(box)]
    if any(box.kind == b"sinf" for box in within):  # encrypted
        raise UnusualError
    esds = _ESDS.match(boxes.content(only(within, b"esds"), _ESDS_BYTES))
    if esds is None or esds[1] not in _AAC + (_MP3 if may_be_mp3 and version == 0 else b""):
        raise UnusualError


def _priming(boxes: Boxes, moov: list[Box], trak: Box) -> bytes:
    """The note (iTunSMPB) by which iTunes says how many samples before the first are to be left out, as a udta.

    FFmpeg takes it for a note on what it found last before it: another track, or a cover.
    """
    last = None
    for box in moov:
        last = box if box.kind == b"trak" else last
        if box.kind != b"udta" or last != trak:
            continue
        for meta in (each for each in boxes.within(box) if each.kind == b"meta"):
            parts = boxes.within(meta, 4)
            for item in (each for ilst in parts if ilst.kind == b"ilst" for each in boxes.within(ilst)):
                if item.kind == b"covr":
                    return b""
                if item.kind == b"----" and b"iTunSMPB" in boxes.content(item, min(item.end - item.start, _NOTE_BYTES)):
                    ilst = make_box(b"ilst", boxes.copy(item))
                    return make_box(b"udta", make_box(b"meta", bytes(4), boxes.copy(only(parts, b"hdlr")), ilst))
    return b""


def _table(kind: bytes, *rows: bytes) -> bytes:
    return make_box(kind, struct.pack(">II", 0, len(rows)), *rows)

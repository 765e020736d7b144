"""In the decoding process: the decoder of one stream."""

from typing import Any

import av

from .timestamps import flac_sample_number

# Audio alone: neither pictures nor subtitles are ever decoded, not even to look what they are.
ALLOWED = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,alac,amrnb,amrwb,ape,dca,eac3,flac,g722,gsm,gsm_ms,mp1,mp1float,mp2,"
    "mp2float,mp3,mp3float,mp3adu,mp3adufloat,nellymoser,opus,libopus,speex,libspeex,truehd,tta,vorbis,libvorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,"
    "pcm_alaw,pcm_bluray,pcm_f16le,pcm_f24le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,"
    "pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,"
    "pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,"
    "pcm_u32le,pcm_u8"
)
# Noise in these is read as an announcement of other channels, up to 50 in a packet and 64 in all, for each of which the
# decoder takes 0.36 MiB and keeps it as long as it lives.
_KEEP_WHAT_DAMAGE_TOOK = frozenset({"aac", "aac_fixed", "aac_latm"})
_TAGS = (b"ID3", b"TAG")  # between MP3s that were put together


class Codec:
    """Decodes the packets of one stream.

    Memory: what the largest packet takes, damaged or not; no damage adds to that of another packet.
    """

    def __init__(self, stream: av.AudioStream, *, is_in_ogg: bool) -> None:
        self._stream = stream
        self._own: av.AudioCodecContext | None = None
        context = stream.codec_context
        self.name = context.name
        context.thread_count = 1  # a thread could not be started
        self._flac_block = 0
        if self.name == "flac":
            context.options = {"err_detect": "crccheck+explode"}  # silent damage elsewhere, none here
            self._flac_block = int.from_bytes((context.extradata or b"")[:2], "big") if is_in_ogg else 0

    def decode(self, packet: "av.Packet[av.AudioStream]") -> list[av.AudioFrame]:
        """The frames of the next packet.

        Raises:
            av.FFmpegError: it is damaged.
            MemoryError: it is so damaged that it asks for more than there is. The next may be good again.
        """
        if self.name.startswith("mp3") and bytes(memoryview(packet)[:3]) in _TAGS:
            return []  # no frame begins like that
        if self._flac_block:
            packet.pts = flac_sample_number(bytes(memoryview(packet)[:11]), self._flac_block)
        if self.name not in _KEEP_WHAT_DAMAGE_TOOK:
            return self._stream.codec_context.decode(packet)
        if self._own is None:
            self._own = self._anew()
        try:
            return self._own.decode(packet)
        except (av.FFmpegError, MemoryError):
            self._own = None
            raise

    def _anew(self) -> av.AudioCodecContext:
        """Like the stream's own, which cannot be given back while the container is open."""
        like = self._stream.codec_context
        made: Any = av.CodecContext.create(like.codec, "r")
        assert isinstance(made, av.AudioCodecContext)
        made.thread_count = 1
        made.extradata = like.extradata
        if not like.extradata and like.layout.nb_channels:
            made.sample_rate, made.layout = like.sample_rate, like.layout
        made.options = {"pkt_timebase": str(self._stream.time_base)}
        return made

"""The REST protocol of Gemini's generateContent, as both SDKs speak it, on the server of good and bad manners."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.transcribers.gemini import GeminiTranscriber
from memsafe_transcribe.transcribers.google_genai import GoogleGenaiTranscriber

from .server import Exchange, Handler

KEY = "AQ.test-key-that-nobody-may-see"
MODEL = "gemini-test"
PATH = f"/v1beta/models/{MODEL}:generateContent"
ENGINES: dict[str, Any] = {"gemini": GeminiTranscriber, "google-genai": GoogleGenaiTranscriber}
_RATE = 16_000
_FINISH_REASONS = ("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER")
_BLOCK_REASONS = ("BLOCK_REASON_UNSPECIFIED", "SAFETY", "OTHER")


def chunk_of(seconds: float, index: int = 0) -> mt.AudioChunk:
    """A chunk of silence."""
    samples = int(seconds * _RATE)
    return mt.AudioChunk(
        index=index,
        start_seconds=0.0,
        duration_seconds=samples / _RATE,
        sample_rate_hz=_RATE,
        format="wav",
        data=wav([bytes(2 * samples)], _RATE),
    )


def audio_in(exchange: Exchange) -> bytes:
    """The WAV file that was sent."""
    parts = json.loads(exchange.body)["contents"][0]["parts"]
    return base64.b64decode(parts[0]["inlineData"]["data"], altchars=b"-_" if b"_" in exchange.body else None)


def question_in(exchange: Exchange) -> str:
    """What was asked about it."""
    text: str = json.loads(exchange.body)["contents"][0]["parts"][1]["text"]
    return text


def send(exchange: Exchange, document: Any, status: str = "200 OK", **headers: str) -> None:
    """Answer with JSON."""
    body = json.dumps(document).encode()
    exchange.answer(body, status, Content_Type="application/json; charset=UTF-8", Connection="close", **headers)


def _enum(exchange: Exchange, name: str, names: Sequence[str]) -> int | str:
    """Names as the service sends them, or numbers where the client asks for those."""
    return names.index(name) if "enum-encoding%3Dint" in exchange.query else name


def candidate(text: str | None, finish_reason: str = "STOP") -> Handler:
    """One candidate with this text, or without any."""

    def answer(exchange: Exchange) -> None:
        content = {"role": "model", "parts": [{"text": text}]} if text is not None else {"role": "model"}
        reason = _enum(exchange, finish_reason, _FINISH_REASONS)
        send(
            exchange,
            {
                "candidates": [{"content": content, "finishReason": reason, "index": 0, "anUnknownField": 1}],
                "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 19},
                "modelVersion": MODEL,
            },
        )

    return answer


def says(*segments: tuple[str, Any, Any], language: Any = "en") -> Handler:
    """A transcript: text, start and end of each segment."""
    items = [{"text": text, "start": start, "end": end} for text, start, end in segments]
    return candidate(json.dumps({"language": language, "segments": items}))


def blocked(reason: str) -> Handler:
    """The question itself was refused."""
    return lambda exchange: send(exchange, {"promptFeedback": {"blockReason": _enum(exchange, reason, _BLOCK_REASONS)}})


def refuses(status: str, message: str, *details: dict[str, Any], **headers: str) -> Handler:
    """An error as the API's are; `status` as "429 Too Many Requests"."""
    code = int(status[:3])
    error = {"code": code, "message": message, "status": "A_STATUS", "details": list(details)}
    return lambda exchange: send(exchange, {"error": error}, status, **headers)


def retry_info(delay: str) -> dict[str, Any]:
    """What the API says about when to come back."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota_failure(quota_id: str) -> dict[str, Any]:
    """What the API says about the quota that is used up."""
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    violation = {"quotaMetric": metric, "quotaId": quota_id, "quotaDimensions": {"model": MODEL}, "quotaValue": "20"}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}

"""The REST protocol of Gemini's generateContent and files, as the SDKs speak it, on the server of all manners."""

import base64
import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import memsafe_transcribe as mt
from memsafe_transcribe._audio.encoding import wav
from memsafe_transcribe.transcribers.gemini import GeminiTranscriber
from memsafe_transcribe.transcribers.google_genai import GoogleGenaiTranscriber

from .server import Exchange, Handler, Server

KEY = "AQ.test-key-that-nobody-may-see"
MODEL = "gemini-test"
PATH = f"/v1beta/models/{MODEL}:generateContent"
UPLOAD_PATH = "/upload/v1beta/files"
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


class FileService:
    """Gemini's Files API: resumable upload as it is documented, then get and delete.

    Args:
        server: gets the routes. Each is an answer of `answers`, which tests replace.

    Attributes:
        answers: of "start", "upload", "get" and "delete".
        files: by name, the documents of those that are there.
        received: by name, what was ever uploaded.
        states: of a new file at each look, the last one for good.
        secrets: the credentials in the URLs of uploads.
        pieces: the bytes of each piece that came.
    """

    GRANULARITY_BYTES = 8 * 1024 * 1024

    def __init__(self, server: Server) -> None:
        self.answers: dict[str, Handler] = {
            "start": self.start,
            "upload": self.upload,
            "get": self.get,
            "delete": self.delete,
        }
        self.files: dict[str, dict[str, Any]] = {}
        self.received: dict[str, bytes] = {}
        self.states: tuple[str, ...] = ("ACTIVE",)
        self.secrets: list[str] = []
        self.pieces: list[int] = []
        self._server = server
        self._lock = threading.Lock()
        self._uploads: dict[str, tuple[int, bytearray]] = {}
        self._looks: dict[str, list[str]] = {}
        server.routes[UPLOAD_PATH] = self._started_or_uploaded

    def _started_or_uploaded(self, exchange: Exchange) -> None:
        is_start = exchange.headers.get("x-goog-upload-command") == "start"
        self.answers["start" if is_start else "upload"](exchange)

    def _found_or_deleted(self, exchange: Exchange) -> None:
        self.answers["delete" if exchange.method == "DELETE" else "get"](exchange)

    def start(self, exchange: Exchange) -> None:
        """Where to send the bytes that were announced."""
        headers = exchange.headers
        assert headers["x-goog-upload-protocol"] == "resumable"
        assert headers["x-goog-upload-header-content-type"] == "audio/wav"
        assert headers["x-goog-api-key"]
        assert "file" in json.loads(exchange.body)
        with self._lock:
            secret = f"upload-secret-{len(self.secrets)}-that-nobody-may-see"
            self.secrets.append(secret)
            self._uploads[secret] = (int(headers["x-goog-upload-header-content-length"]), bytearray())
        exchange.answer(
            Connection="close",
            X_Goog_Upload_Status="active",
            X_Goog_Upload_URL=self._server.url(f"{UPLOAD_PATH}?upload_id={secret}&upload_protocol=resumable"),
            X_Goog_Upload_Chunk_Granularity=str(self.GRANULARITY_BYTES),
        )

    def upload(self, exchange: Exchange) -> None:
        """One piece; with the last one it is a file."""
        secret = parse_qs(exchange.query)["upload_id"][0]
        size_bytes, received = self._uploads[secret]
        assert int(exchange.headers["x-goog-upload-offset"]) == len(received)
        received += exchange.body
        self.pieces.append(len(exchange.body))
        if "finalize" not in exchange.headers["x-goog-upload-command"]:
            assert len(exchange.body) % self.GRANULARITY_BYTES == 0
            exchange.answer(Connection="close", X_Goog_Upload_Status="active")
            return
        assert len(received) == size_bytes
        with self._lock:
            name = f"files/{len(self._looks):012}"
            self._looks[name] = list(self.states)
            path = f"/v1beta/{name}"
            document = {
                "name": name,
                "mimeType": "audio/wav",
                "sizeBytes": str(size_bytes),
                "uri": self._server.url(path),
                "sha256Hash": base64.b64encode(hashlib.sha256(received).hexdigest().encode()).decode(),
                "source": "UPLOADED",
            }
            self.files[name], self.received[name] = document, bytes(received)
            del self._uploads[secret]
        self._server.routes[path] = self._found_or_deleted
        send(exchange, {"file": self._seen(name)}, X_Goog_Upload_Status="final")

    def _seen(self, name: str) -> dict[str, Any]:
        states = self._looks[name]
        state = states.pop(0) if len(states) > 1 else states[0]
        error = {"error": {"code": 3, "message": "cannot be decoded"}} if state == "FAILED" else {}
        return {**self.files[name], "state": state, **error}

    def get(self, exchange: Exchange) -> None:
        """The file's document."""
        send(exchange, self._seen(exchange.path.removeprefix("/v1beta/")))

    def delete(self, exchange: Exchange) -> None:
        """It is there no longer."""
        del self.files[exchange.path.removeprefix("/v1beta/")]
        send(exchange, {})

    def audio_in(self, exchange: Exchange) -> bytes:
        """What was asked about."""
        audio = json.loads(exchange.body)["contents"][0]["parts"][0]["fileData"]
        assert audio.get("mimeType", audio.get("mime_type")) == "audio/wav"  # the API reads both
        return self.received["files/" + audio.get("fileUri", audio.get("file_uri")).rpartition("/")[2]]

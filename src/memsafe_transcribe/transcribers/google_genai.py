"""Gemini by google-genai, the SDK that is maintained. Extra: `google-genai`."""

from typing import Any

from .._units import MiB
from ._gemini import GeminiEngine, HttpFailure
from ._gemini_answers import Reply, schema

# The service refuses less than 10 s in this header; the SDK writes its own timeout there, and we may have less left.
_SERVER_TIMEOUT = {"X-Server-Timeout": "600"}


class GoogleGenaiTranscriber(GeminiEngine):
    __doc__ = GeminiEngine.__doc__

    name = "google-genai"
    sdk = "google.genai"
    distribution = "google-genai"
    resident_bytes = 48 * MiB
    # Measured: 129 000 a second at the peak, and at the first calls a megabyte besides.
    call_bytes, call_bytes_per_second = 1 * MiB, 172_000.0

    def _open(self, key: str) -> Any:
        from google.genai import Client, types

        options = types.HttpOptions(  # without retry_options, it asks once
            base_url=self._base_url,
            api_version="v1beta",  # what the other engine asks, too
            headers=_SERVER_TIMEOUT,
            client_args={"event_hooks": {"response": [_check]}},
        )
        return Client(api_key=key, vertexai=False, http_options=options)

    def _ask(self, client: Any, asked: str, wav: bytes, timeout_seconds: float) -> Reply:
        from google.genai import types

        audio = types.Part.from_bytes(data=wav, mime_type="audio/wav")
        config = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=schema(),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),  # it copies the contents
            http_options=types.HttpOptions(timeout=max(1, int(timeout_seconds * 1000))),
        )
        contents = types.Content(role="user", parts=[audio, types.Part.from_text(text=asked)])
        answer = client.models.generate_content(model=self._model, contents=contents, config=config)
        feedback = answer.prompt_feedback
        blocked = _name(feedback.block_reason) if feedback is not None else None
        if not answer.candidates:
            return Reply(False, block_reason=blocked)
        candidate = answer.candidates[0]
        parts = (candidate.content.parts if candidate.content is not None else None) or ()
        text = "".join(part.text or "" for part in parts if not part.thought)
        return Reply(True, text, _name(candidate.finish_reason), blocked)

    async def _close(self, client: Any) -> None:
        client.close()
        await client.aio.aclose()  # never used, but it would start a task when it is collected


def _check(response: Any) -> None:
    """Called before the SDK acts on a response: it would follow a redirect, with the key."""
    if response.status_code != 200:
        raise HttpFailure(response.status_code, response.headers.get("Retry-After"), response.read())


def _name(reason: Any) -> str | None:
    return None if reason is None else str(getattr(reason, "name", reason))

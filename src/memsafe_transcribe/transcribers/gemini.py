"""Gemini by google-generativeai, as existing backends have it. Its support has ended: prefer `google-genai`. Extra:
`gemini`.

Of the SDK, its client `google.ai.generativelanguage` is used, by REST. What lies above it, `google.generativeai`, keeps
one configuration for the whole process, which is the host's; its asynchronous REST client does not work.
"""

import warnings
from functools import cache
from typing import Any, ClassVar

from .._units import KiB, MiB
from ._gemini import GeminiEngine, HttpFailure
from ._gemini_answers import Reply, schema


class GeminiTranscriber(GeminiEngine):
    __doc__ = GeminiEngine.__doc__

    name = "gemini"
    sdk = "google.ai.generativelanguage_v1beta"
    distribution = "google-generativeai"
    resident_bytes: ClassVar[int] = 48 * MiB
    # Measured: 192 000 a second at the peak, 209 000 where two requests are made at once.
    call_bytes: ClassVar[int] = 512 * KiB
    call_bytes_per_second: ClassVar[float] = 230_000.0

    def _open(self, key: str) -> Any:
        glm = _glm()
        options = {"api_key": key, **({} if self._base_url is None else {"api_endpoint": self._base_url})}
        client = glm.GenerativeServiceClient(transport="rest", client_options=options)
        # Seen before the SDK acts on it: it would send a chunk again after 401, and follow a redirect with the key.
        client.transport._session.hooks["response"].append(_check)  # noqa: SLF001 - there is no other way in
        return client

    def _ask(self, client: Any, asked: str, wav: bytes, timeout_seconds: float) -> Reply:
        glm = _glm()
        request = glm.GenerateContentRequest(
            model=f"models/{self._model}",
            generation_config={"response_mime_type": "application/json", "response_schema": schema()},
        )
        # Written into the message as it will be sent: each level that is made on its own copies the audio once more.
        content = glm.GenerateContentRequest.pb(request).contents.add(role="user")
        audio = content.parts.add().inline_data
        audio.mime_type, audio.data = "audio/wav", wav
        content.parts.add(text=asked)
        answer = client.generate_content(request, retry=None, timeout=timeout_seconds)
        reason = answer.prompt_feedback.block_reason
        blocked = None if not reason else _name(reason)
        if not answer.candidates:
            return Reply(False, block_reason=blocked)
        candidate = answer.candidates[0]
        text = "".join(part.text for part in candidate.content.parts)
        return Reply(True, text, _name(candidate.finish_reason), blocked)

    async def _close(self, client: Any) -> None:
        client.transport.close()


def _check(response: Any, *_: Any, **__: Any) -> None:
    if response.status_code != 200:
        raise HttpFailure(response.status_code, response.headers.get("Retry-After"), response.content)


def _name(reason: Any) -> str:
    """An enum's name; a number where the SDK is older than the reason."""
    return getattr(reason, "name", None) or str(reason)


@cache
def _glm() -> Any:
    with warnings.catch_warnings():
        # google.api_core says how long Python 3.11 will be supported, each time that it is imported.
        warnings.simplefilter("ignore", FutureWarning)
        from google.ai import generativelanguage_v1beta
    return generativelanguage_v1beta

"""How announcements are signed and sent, and what answers come to."""

from __future__ import annotations

import asyncio
import base64

import pytest

from authz.insight.announcement import Announcement
from authz.window_watch.errors import WindowWatchError
from authz.window_watch.signature import Secret, secrets_of_file, signed_headers
from authz.window_watch.webhook import NotifyUrl, Refusal, Webhook
from tests.support.webhook_receiver import Receiver

KEY = b"0123456789abcdef01234567"
ANNOUNCEMENT = Announcement(id="evt_1", body='{"id": "evt_1"}')


def test_a_signature_is_that_of_the_specifications_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, the vector that all of its libraries are tested with
    (secret,) = secrets_of_file(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330, [secret])
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_a_secret_is_replaced_there_is_a_signature_of_each() -> None:
    secrets = secrets_of_file(KEY + b"\r\n\nwhsec_" + base64.b64encode(KEY[::-1]) + b"\n")
    assert len(signed_headers("i", b"", 1, secrets)["webhook-signature"].split(" ")) == 2


def test_a_secret_shows_itself_nowhere() -> None:
    assert KEY.decode() not in f"{Secret(KEY)!r}{Secret(KEY)}"
    with pytest.raises(WindowWatchError) as refused:
        secrets_of_file(b"tooshortasecret")
    assert "tooshort" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"whsec_%%%", b"whsec_" + b"QUJD", b"x" * 1025,
                                     b"\n".join([KEY] * 5), b"y" * 20_000])  # fmt: skip
def test_what_is_no_good_secret_is_refused(content: bytes) -> None:
    with pytest.raises(WindowWatchError):
        secrets_of_file(content)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "http://10.0.0.1/", "http://localhost.evil.example/", "ftp://h/", "https://", "x", "",
        "https://user:pw@hooks.example/", "https://hooks.example/#f", "https://h:0/", "https://h:x/", "https://h/ x",
        "https://h/\n", "file:///etc/passwd", "http://[::ffff:8.8.8.8]/", "https://" + "h" * 9000,
        "http://127.0.0.1.evil.example/", "http://127.0.0.1@evil.example/", "http://2130706433/",
    ],
)  # fmt: skip
def test_a_url_that_others_could_listen_to_is_refused(url: str) -> None:
    with pytest.raises(WindowWatchError):
        NotifyUrl.parse(url)


@pytest.mark.parametrize(
    "url", ["https://h.example/x?y=z", "http://127.0.0.1:80/", "http://[::1]/", "http://localhost"]
)
def test_https_and_this_machine_are_taken(url: str) -> None:
    assert NotifyUrl.parse(url).text == url


def test_plain_http_is_taken_only_by_who_asks_for_it_and_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    NotifyUrl.parse("http://hooks.example/", unsafe_plain_http=True)
    assert "plain http" in caplog.text


def test_what_is_secret_in_a_url_is_not_shown() -> None:
    assert str(NotifyUrl.parse("https://h.example/T0/secret?k=secret")) == "https://h.example/..."


async def sent(receiver: Receiver, times: int = 1, at_s: int = 1_700_000_000) -> list[Refusal | None]:
    async with Webhook(NotifyUrl.parse(receiver.url), [Secret(KEY)], clock_s=lambda: at_s) as webhook:
        return [await webhook.send(ANNOUNCEMENT) for _ in range(times)]


def test_what_is_answered_2xx_is_taken_and_came_signed_with_its_time() -> None:
    with Receiver().serving() as receiver:
        assert asyncio.run(sent(receiver)) == [None]
        came = receiver.next()
    assert (came.path, came.body.decode()) == ("/hook?token=secret", ANNOUNCEMENT.body)
    assert came.is_signed_with(KEY)
    assert not came.is_signed_with(KEY[::-1])
    assert (came.headers["webhook-id"], came.headers["webhook-timestamp"]) == ("evt_1", "1700000000")
    assert came.headers["content-type"] == "application/json"


def test_no_redirect_is_followed() -> None:
    with Receiver().serving() as other, Receiver().serving() as receiver:
        for status in (301, 302, 303, 307, 308):
            receiver.answer(status, location=other.url)
        refused = asyncio.run(sent(receiver, 5))
        assert [each and each.why for each in refused] == [f"status {status}" for status in (301, 302, 303, 307, 308)]
        assert other.received.empty()


def test_an_answer_of_any_size_is_not_read() -> None:
    with Receiver().serving() as receiver:
        receiver.answer(200, b"x" * 200_000_000)
        receiver.answer(500, b"x" * 200_000_000, retry_after="7")
        receiver.answer(503, retry_after="9" * 30)
        receiver.answer(429, retry_after="99999")
        assert asyncio.run(sent(receiver, 4)) == [
            None,
            Refusal(why="status 500", retry_after_s=7.0),
            Refusal(why="status 503"),
            Refusal(why="status 429", retry_after_s=3600.0),
        ]


def test_who_does_not_answer_is_named_without_the_secret_of_the_url() -> None:
    with Receiver().serving() as receiver:
        pass
    (refused,) = asyncio.run(sent(receiver))
    assert refused is not None
    assert "secret" not in refused.why
    assert refused.why == "connection refused"

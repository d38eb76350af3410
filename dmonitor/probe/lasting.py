"""Do certificates last? For how many days, and which one of a chain ends first."""

from __future__ import annotations

import time

from dmonitor.probe import certificate, doubt
from dmonitor.probe.outcome import Fail, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dmonitor.probe.certificate import Certificate

_DAY = 86400
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def judge(shown: list[Certificate], days: int) -> str:
    """Return how long the certificates last that a server has shown, its own first.

    Raise Fail if one that counts lasts less than `days`, or is not valid yet, and Unknown if this
    machine's clock cannot tell.
    """
    reason = doubt.of_clock()
    if reason:
        raise Unknown(reason)
    if not shown:
        raise Fail("it shows no certificate")
    own, *others = shown
    for each in [own, *_needed(others, own, days)]:
        text = _fault(
            "the certificate" if each is own else f"the authority {each.name}", each, days
        )
        if text:
            raise Fail(text)
    return f"the certificate ends in {days_until(own.ends)} days, on {_date(own.ends)}"


def _needed(others: list[Certificate], own: Certificate, days: int) -> list[Certificate]:
    """Return the authorities' certificates without which nobody believes the server's own.

    A server may show more than is needed: a root, and one that another authority has signed for a
    root. Whoever has that root needs neither.
    """
    suspects = [other for other in others if _fault("", other, days)]
    if not suspects:
        return []
    trusted = _trusted()
    needed = []
    wanted = own.issuer
    while wanted not in trusted:
        found = [other for other in others if other.subject == wanted and other not in needed]
        if not found:
            break
        # If it is shown twice, the one that lasts is taken.
        best = max(found, key=lambda other: other.ends)
        needed.append(best)
        wanted = best.issuer
    return needed


def _trusted() -> set[bytes]:
    """Return the names of the authorities that this machine trusts; raise Unknown without any."""
    import ssl

    roots = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        roots.load_verify_locations(_AUTHORITIES)
    except OSError as error:
        raise Unknown(f"this node: {_AUTHORITIES}: {error.strerror or error}") from None
    names = set()
    for der in roots.get_ca_certs(binary_form=True):
        try:
            names.add(certificate.read(der).subject)
        except Fail:
            continue  # it is this machine's, and no fault of the host
    return names


def _fault(title: str, each: Certificate, days: int) -> str:
    """Return what is wrong with the time of a certificate; "" if nothing is."""
    now = time.time()
    if each.begins > now:
        until = int(each.begins - now) // _DAY
        return f"{title} is not valid yet: it begins on {_date(each.begins)}, in {until} days"
    if each.ends < now:
        return f"{title} ended on {_date(each.ends)}, {int(now - each.ends) // _DAY} days ago"
    if days_until(each.ends) < days:
        return f"{title} ends in {days_until(each.ends)} days, on {_date(each.ends)}"
    return ""


def days_until(moment: float) -> int:
    """Return how many whole days are left; less than 0 after it."""
    return int(moment - time.time()) // _DAY


def _date(moment: float) -> str:
    return time.strftime("%d %b %Y", time.gmtime(moment))

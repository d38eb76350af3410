"""Ten mail systems of Debian that have a /usr/sbin/sendmail, each set up to give all mail to the smart host.

`mail-matrix` installs them, and `cell` sets them up and starts them. Where a mail system's own times
are hours, `flush` is what its operator types, so that no cell takes as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NODE, SMART_HOST = "192.0.2.1", "192.0.2.25"
HOSTNAME = "node.test"


@dataclass(frozen=True)
class System:
    """A mail system; the commands are for a shell, and root's."""

    packages: tuple[str, ...]
    queues: bool  # whether its sendmail ends before the smart host has answered
    files: dict[str, str] = field(default_factory=dict)
    prepare: str = ""
    start: str = ""  # its daemon, if it has one
    stop: str = ""
    processes: str = ""  # a pattern of names that none of its processes has while it is stopped
    flush: str = ""  # try again now what waits


_SENDMAIL_MC = f"""
define(`SMART_HOST', `[{SMART_HOST}]')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`nocanonify')dnl
MAILER_DEFINITIONS
MAILER(`local')dnl
MAILER(`smtp')dnl
"""

SYSTEMS = {
    "postfix": System(
        ("postfix",),
        queues=True,
        files={
            "/etc/postfix/main.cf": f"""
                compatibility_level = 3.6
                myhostname = {HOSTNAME}
                mydestination = localhost
                relayhost = [{SMART_HOST}]
                inet_interfaces = loopback-only
                inet_protocols = ipv4
                alias_maps =
                """
        },
        start="postfix start",
        stop="postfix stop",
        processes="master|qmgr|pickup",
        flush="postqueue -f",
    ),
    "exim4": System(
        ("exim4-daemon-light",),
        queues=True,
        files={
            "/etc/exim4/update-exim4.conf.conf": f"""
                dc_eximconfig_configtype='satellite'
                dc_other_hostnames=''
                dc_local_interfaces='127.0.0.1'
                dc_readhost='{HOSTNAME}'
                dc_relay_domains=''
                dc_minimaldns='true'
                dc_relay_nets=''
                dc_smarthost='{SMART_HOST}'
                CFILEMODE='644'
                dc_use_split_config='false'
                dc_hide_mailname='false'
                dc_mailname_in_oh='true'
                dc_localdelivery='mail_spool'
                """
        },
        prepare="update-exim4.conf",
        start="/usr/sbin/exim4 -bd -q30m",
        stop="pkill -x exim4",
        processes="exim4",
        flush="/usr/sbin/exim4 -qff",
    ),
    "sendmail": System(
        ("sendmail-bin",),
        queues=True,
        files={"/etc/mail/more.mc": _SENDMAIL_MC},
        # It refuses mail while the machine has much to do, which is not what this is about.
        prepare="""
            cd /etc/mail && sed -i '/^MAILER/d' sendmail.mc && cat more.mc >>sendmail.mc &&
            m4 sendmail.mc >sendmail.cf && newaliases &&
            for file in sendmail.cf submit.cf; do
                printf 'O QueueLA=9999\\nO RefuseLA=9999\\n' >>$file || exit 1
            done
            """,
        start="/etc/init.d/sendmail start",
        stop="/etc/init.d/sendmail stop",
        processes="sendmail.*",
        flush="/usr/sbin/sendmail -q; /usr/sbin/sendmail -Ac -q",
    ),
    "opensmtpd": System(
        ("opensmtpd", "ca-certificates"),  # without these it does not start
        queues=True,
        files={
            "/etc/smtpd.conf": f"""
                listen on localhost
                action "relay" relay host smtp://{SMART_HOST}
                match from any for any action "relay"
                """
        },
        start="/usr/sbin/smtpd",
        stop="pkill -x smtpd",
        processes="smtpd",
        flush="smtpctl schedule all",
    ),
    "nullmailer": System(
        ("nullmailer",),
        queues=True,
        files={
            "/etc/nullmailer/remotes": f"{SMART_HOST} smtp",
            # An hour by default; then one smart host that hangs holds all mail back for so long.
            "/etc/nullmailer/sendtimeout": "300",
        },
        prepare="cd /var/spool/nullmailer && mkfifo trigger && chown mail trigger && chmod 622 trigger",
        start="cd /var/spool/nullmailer && runuser -u mail -- setsid /usr/sbin/nullmailer-send &",
        stop="pkill -x nullmailer-send",
        processes="nullmailer-send",
    ),
    "courier": System(
        ("courier-mta",),
        queues=True,
        files={
            "/etc/courier/me": HOSTNAME,
            "/etc/courier/defaultdomain": HOSTNAME,
            "/etc/courier/locals": "localhost",
            "/etc/courier/esmtproutes": f":[{SMART_HOST}],25",
        },
        start="/usr/sbin/courier start",
        stop="/usr/sbin/courier stop",
        processes="courierd|courieresmtp",
        flush="/usr/sbin/courier flush",
    ),
    "dma": System(
        ("dma",),
        queues=True,
        files={
            "/etc/dma/dma.conf": f"""
                SMARTHOST {SMART_HOST}
                PORT 25
                MAILNAME {HOSTNAME}
                """
        },
        flush="/usr/sbin/dma -q1",
    ),
    "msmtp": System(
        ("msmtp-mta",),
        queues=False,
        files={
            "/etc/msmtprc": f"""
                account default
                host {SMART_HOST}
                port 25
                tls off
                auth off
                """
        },
    ),
    "ssmtp": System(
        ("ssmtp",),
        queues=False,
        files={
            "/etc/ssmtp/ssmtp.conf": f"""
                mailhub={SMART_HOST}:25
                hostname={HOSTNAME}
                FromLineOverride=YES
                """
        },
    ),
    "esmtp": System(
        ("esmtp-run",), queues=False, files={"/etc/esmtprc": f"hostname = {SMART_HOST}:25\n"}
    ),
}

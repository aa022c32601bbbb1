"""`flask mail ...`: the operator records bounces that arrived in the mailbox of MAIL_FROM."""

import click
from flask import Flask

from app.commands import Group
from app.errors import Invalid
from app.services import bounces, senders

mail_commands = Group("mail", help="E-mails that bounced.")


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(mail_commands)


@mail_commands.command("bounced")
@click.argument("address")
@click.option("--reason", default="", help="What the other server said; shown to senders.")
def note_bounce(address: str, reason: str) -> None:
    """Record that mail to ADDRESS bounced; it gets no more, and senders are told. Repeatable."""
    count = bounces.came_back(_checked(address), reason)
    marked = "1 recipient was" if count == 1 else f"{count} recipients were"
    click.echo(f"It gets no more e-mails; {marked} marked.")


@mail_commands.command("allow")
@click.argument("address")
def allow_mail(address: str) -> None:
    """Allow mail to ADDRESS again, unless its owner has opted out. Repeatable."""
    lifted = bounces.allow(_checked(address))
    if lifted:
        click.echo("It gets e-mails again, unless its owner has opted out.")
    else:
        click.echo("Nothing to lift: no bounce or complaint is recorded for it.")


def _checked(address: str) -> str:
    try:
        return senders.checked(address, "address")
    except Invalid as error:
        raise click.ClickException(f"{address} is not an e-mail address.") from error

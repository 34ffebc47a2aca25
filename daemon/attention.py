"""What a person has said of the alerts: seen, or not to be heard of for a while. Folded from facts; no clock."""

from __future__ import annotations

from .events import AlertAcknowledged, AlertChanged, AlertsSilenced, Attended, SilenceEnded


class Attention:
    def __init__(self) -> None:
        self.acknowledged: dict[str, AlertAcknowledged] = {}
        """By fingerprint, the last one."""
        self.silenced: dict[str, tuple[float, AlertsSilenced]] = {}
        """By code: since when, and until when."""

    def apply(self, moment: float, event: Attended) -> None:
        match event:
            case AlertAcknowledged():
                self.acknowledged[event.fingerprint] = event
            case AlertsSilenced():
                self.silenced[event.code] = moment, event
            case SilenceEnded():
                self.silenced.pop(event.code, None)

    def seen(self, alert: AlertChanged) -> AlertAcknowledged | None:
        """Who acknowledged this very alert; one that was over and began again nobody has seen."""
        known = self.acknowledged.get(alert.fingerprint)
        return known if known is not None and known.since == alert.since else None

    def mutes(self, moment: float, alert: AlertChanged) -> bool:
        """Whether nobody is to be written to about what became of this alert at `moment`."""
        if self.seen(alert) is not None:
            return True
        began, silence = self.silenced.get(alert.code, (0.0, None))
        return silence is not None and began <= moment < silence.until

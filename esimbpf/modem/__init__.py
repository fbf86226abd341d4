"""What ModemManager knows: which SIM profile, operator and radio technology stand behind a link, and since when.

    ModemManager -> bus -> objects (properties) -> decode -> model -> identity (by link) -> ModemWatch

Only `bus` speaks D-Bus (jeepney). Nothing is changed at the modem but what `client` and `ussd` say.
"""

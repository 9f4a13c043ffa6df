#!/bin/sh
# What this machine is. The image has everything else; secrets are fetched with the instance's role.
# Nothing in it is secret, and services read it that are not root's.
umask 022
cat > /etc/shoal/instance.json <<'INSTANCE'
${instance}
INSTANCE
exec systemctl start --no-block shoal-first-boot.service

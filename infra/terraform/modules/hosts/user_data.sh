#!/bin/sh
# What this machine is. The image has everything else; secrets are fetched with the instance's role.
umask 027
cat > /etc/shoal/instance.json <<'INSTANCE'
${instance}
INSTANCE
exec systemctl start --no-block shoal-first-boot.service

"""A fleet of booted hosts on one machine, for playbooks to be run on for real.

Each host is a systemd-nspawn machine: its own systemd, sshd, package database and network namespace, over one Debian
root that is built once. A host has an ``internal`` and a ``public`` address and no way to the outside but a caching
proxy for apt. A lab has a name, and labs do not see each other, so several run beside each other with equal addresses.

    python -m rehearsal up                     five bare hosts; prints where their inventory is
    python -m rehearsal exec -- ansible-playbook -i INVENTORY site.yml
    python -m rehearsal exec -- ssh -i KEY root@ADDRESS
    python -m rehearsal crash w1               pull the plug; `start` plugs it in again
    python -m rehearsal wipe w1                crash it, lose its disk, boot it bare
    python -m rehearsal down

It needs root, and the packages debootstrap, systemd-container, openssh-client and iproute2. Everything runs below one
process, the lab's keeper, the first one of a process namespace with mounts of its own: whatever ends it, the kernel
ends every process of the lab with it, and takes down its mounts and networks.
"""

# kindlift's relay: joins stdin and stdout to a unix socket, after telling what it sees here.
# Runs in the node with nothing but perl-base. $ARGV[0] is the socket.
use strict;
use warnings;
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un);

$SIG{PIPE} = 'IGNORE';

sub slurp {
    my ($path) = @_;
    open(my $in, '<', $path) or return '';
    local $/;
    my $text = <$in>;
    return defined $text ? $text : '';
}

sub write_all {
    my ($to, $buffer) = @_;
    my $at = 0;
    while ($at < length $buffer) {
        my $n = syswrite($to, $buffer, length($buffer) - $at, $at);
        next if !defined $n && $!{EINTR};
        return 0 if !defined $n;
        $at += $n;
    }
    return 1;
}

sub copy {
    my ($from, $to) = @_;
    my $buffer;
    while (1) {
        my $n = sysread($from, $buffer, 262144);
        next if !defined $n && $!{EINTR};
        return if !$n;
        return if !write_all($to, $buffer);
    }
}

my $path = $ARGV[0];
socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!\n";
connect($socket, pack_sockaddr_un($path)) or die "cannot connect to $path: $!\n";

my $machine = `uname -m`;
chomp $machine;
my @df = split ' ', (split /\n/, `df -Pk /var/lib/containerd 2>/dev/null`)[1] || '';
my $free = @df > 3 ? $df[3] * 1024 : '';
my $disk = (stat '/var/lib/containerd')[0] || '';
my $discard = slurp('/etc/containerd/config.toml') =~ /^\s*discard_unpacked_layers\s*=\s*true/m ? 1 : 0;
my @binfmt;
if (opendir(my $dir, '/proc/sys/fs/binfmt_misc')) {
    for my $name (grep { !/^\./ && $_ ne 'register' && $_ ne 'status' } readdir $dir) {
        push @binfmt, $name if slurp("/proc/sys/fs/binfmt_misc/$name") =~ /^enabled/;
    }
}
write_all(\*STDOUT, "kindlift 1\nmachine $machine\nfree $free\ndisk $disk\ndiscard $discard\nbinfmt @binfmt\n\n")
    or exit 1;

my $child = fork;
defined $child or die "fork: $!\n";
if ($child == 0) {
    copy(\*STDIN, $socket);
    shutdown($socket, 1);
    exit 0;
}
copy($socket, \*STDOUT);
# The other half may wait on stdin for ever.
kill 'KILL', $child;
waitpid $child, 0;

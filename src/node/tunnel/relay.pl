# kindlift's relay: joins stdin and stdout to a unix socket, after telling what it sees here.
# Runs in the node with nothing but perl-base. Arguments: the socket, and the folder in which containerd
# has what is written to it and not committed: a folder for each ingest, with its reference in `ref` and
# its content in `data`.
#
# What comes out of the socket goes to stdout as it is. What comes on stdin is in frames, because it
# goes to files, too: see frames.rs.
use strict;
use warnings;
use Socket qw(AF_UNIX SOCK_STREAM pack_sockaddr_un);

my ($path, $ingests) = @ARGV;

$SIG{PIPE} = 'IGNORE';

sub slurp {
    my ($path) = @_;
    open(my $in, '<', $path) or return '';
    local $/;
    my $text = <$in>;
    return defined $text ? $text : '';
}

# Writes some of a buffer, from an offset on.
sub write_all {
    my ($to, $buffer, $at, $length) = @_;
    while ($length > 0) {
        my $n = syswrite($to, $$buffer, $length, $at);
        next if !defined $n && $!{EINTR};
        return 0 if !defined $n;
        $at += $n;
        $length -= $n;
    }
    return 1;
}

sub read_some {
    my ($from, $buffer, $at) = @_;
    while (1) {
        my $n = sysread($from, $$buffer, 262144, $at);
        return $n if defined $n || !$!{EINTR};
    }
}

# Opens the file of an ingest. containerd puts its namespace and a number before the reference.
sub ingest {
    my ($reference) = @_;
    opendir(my $dir, $ingests) or return;
    for my $name (grep { !/^\./ } readdir $dir) {
        next if slurp("$ingests/$name/ref") !~ m{^k8s\.io/\d+/\Q$reference\E$};
        open(my $file, '+<', "$ingests/$name/data") or return;
        sysseek($file, 0, 2) or return;
        return $file;
    }
    return;
}

# Copies what the socket says to stdout.
sub give {
    my ($socket) = @_;
    my $buffer;
    while (my $n = read_some($socket, \$buffer, 0)) {
        return if !write_all(\*STDOUT, \$buffer, 0, $n);
    }
}

# Takes frames apart until stdin ends.
sub take {
    my ($socket) = @_;
    my %streams;
    my ($stream, $left, $buffer) = (0, 0, '');
    while (read_some(\*STDIN, \$buffer, length $buffer)) {
        my $at = 0;
        while (1) {
            my $there = length($buffer) - $at;
            if ($left == 0) {
                last if $there < 8;
                ($stream, $left) = unpack 'NN', substr($buffer, $at, 8);
                $at += 8;
                delete $streams{$stream} if $left == 0;
                next;
            }
            if ($stream != 0 && !exists $streams{$stream}) {
                # A reference is short, and wanted whole.
                last if $there < $left;
                $streams{$stream} = ingest(substr($buffer, $at, $left));
                $at += $left;
                $left = 0;
                next;
            }
            last if $there == 0;
            my $n = $there < $left ? $there : $left;
            if ($stream == 0) {
                return if !write_all($socket, \$buffer, $at, $n);
            } elsif (defined $streams{$stream}) {
                # What is not written is missing in the end, and noticed there.
                write_all($streams{$stream}, \$buffer, $at, $n) or $streams{$stream} = undef;
            }
            $at += $n;
            $left -= $n;
        }
        substr($buffer, 0, $at) = '';
    }
}

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
my $hello = "kindlift 1\nmachine $machine\nfree $free\ndisk $disk\ndiscard $discard\nbinfmt @binfmt\n\n";
write_all(\*STDOUT, \$hello, 0, length $hello) or exit 1;

my $child = fork;
defined $child or die "fork: $!\n";
if ($child == 0) {
    take($socket);
    shutdown($socket, 1);
    exit 0;
}
give($socket);
# The other half may wait on stdin for ever.
kill 'KILL', $child;
waitpid $child, 0;


=pod

=head1 NAME

SoakSamples - what the processes of the soak had at rest, again and again, and whether that grows

=head1 SYNOPSIS

  use SoakSamples;

  my $samples = SoakSamples->new($seconds);
  $samples->add('relay', pid => $pid, messages => $published, contexts => $bytes / 1024);
  ok($samples->is_flat('relay', 'memory'));
  print $samples->table;

=head1 DESCRIPTION

All samples are taken when nothing runs, so that what a process has then is what it keeps.

B<Flat> is a figure whose median in the last fifth of the time is not above that in the second fifth, but for an allowance.
The first fifth is for caches and for what malloc keeps. Medians, since a process may just be losing its connection while it is
looked at. Of the connections and subscriptions of nats-server it is the least: a session may keep one to another server for some turns, and what was
left behind is always there.

What has happened for the first time may leave something behind: a cache, or memory that is kept for next time. That is a step, and
it can come at any time. What grows does so again and again. So the largest of the rises from the second fifth to the third, and from that to the fourth,
does not count for the memory of a process, and for what PostgreSQL has given out of it, unless it is larger than anything that is kept; the table tells of it. A rise to the last fifth counts,
for nothing says that it is the last one. Of steady growth, so two thirds are seen. The allowance is

  nothing             for descriptors, threads, connections and subscriptions
  5 % and 1.5 MB      for the memory of a process: what malloc keeps varies by more than 1 MB
  5 % and 256 kB      for what PostgreSQL has given out of it, which is exact and has no free space in it
  25 % and 32 MB      for the memory of nats-server, whose garbage collector by its default waits until the heap has doubled, and
                      gives back late. Its streams may open some files, and its threads have no verdict, as Go's runtime
                      never ends one. What we could leave there are connections and subscriptions.

The table says which growth per message that would show.

The memory of a process is its own anonymous memory (RssAnon), which has all of malloc's. Private dirty pages say less: those that
the postmaster shares with a child count as private when the child has ended. Descriptors are all but those of the files of
PostgreSQL's tables and logs, which it keeps open, and closes, as it likes.

=cut

package SoakSamples;

use strict;
use warnings FATAL => 'all';

use List::Util qw(sum max);
use Time::HiRes qw(time);

use PostgreSQL::Test::Utils;
use PublishTest;

my @FIGURES = qw(memory contexts files threads connections subscriptions);

# factor and kB more
my %ALLOWED = (memory => [ 0.05, 1536 ], contexts => [ 0.05, 256 ]);
# kB that one step may be: a block of PostgreSQL's memory is 8 MB, and comes behind those of 4, 2 and 1
my %STEP = (memory => 16 * 1024, contexts => 1024);
my %ALLOWED_TO_SERVER = (memory => [ 0.25, 32 * 1024 ], files => [ 0, 10 ], threads => undef);

=pod

=head1 METHODS

=over

=item SoakSamples->new($seconds)

The run begins now, and takes so long.

=item $samples->progress

How much of the time is over, 1 at its end.

=item $samples->add($process, pid => ..., messages => ..., contexts => kB, connections => ..., subscriptions => ...)

Adds its memory, descriptors and threads. The number of messages is that which the process has published until now; what is
not known is left out.

=item $samples->processes, $samples->figures($process), $samples->is_flat($process, $figure), $samples->step($process, $figure)

figures() are those of which there is a verdict; step() is the rise that does not count, 0 without one.

=item $samples->count_in_fifth($number), $samples->table, $samples->write_csv($path), $samples->draw($path, $title)

=back

=cut

sub new
{
	my ($class, $seconds) = @_;
	return bless { started => time, seconds => $seconds, order => [], samples => {} }, $class;
}

sub progress { return (time - $_[0]->{started}) / $_[0]->{seconds}; }

sub add
{
	my ($self, $process, %figures) = @_;
	push @{ $self->{order} }, $process unless $self->{samples}{$process};
	my $pid = delete $figures{pid};
	push @{ $self->{samples}{$process} }, {
		time => time - $self->{started},
		memory => process_memory($pid),
		files => files_kept_open($pid),
		threads => process_threads($pid),
		%figures };
	return;
}

sub files_kept_open
{
	my ($pid) = @_;
	my @targets = map { readlink($_) // '' } glob "/proc/$pid/fd/*";
	return scalar(grep { !m{/pgdata/} || m{/pgsql_tmp/} } @targets);
}

sub processes { return @{ $_[0]->{order} }; }

sub figures
{
	my ($self, $process) = @_;
	return grep { defined $self->{samples}{$process}[0]{$_} && allowance($process, $_) } @FIGURES;
}

sub allowance
{
	my ($process, $figure) = @_;
	return $ALLOWED_TO_SERVER{$figure} if $process =~ /^nats-server/ && exists $ALLOWED_TO_SERVER{$figure};
	return $ALLOWED{$figure} // [ 0, 0 ];
}

sub is_flat
{
	my ($self, $process, $figure) = @_;
	my ($start, $end) = map { $self->_median($process, $figure, $_) } 2, 5;
	return $end - $self->step($process, $figure) <= _limit($process, $figure, $start);
}

sub step
{
	my ($self, $process, $figure) = @_;
	my $most = $process =~ /^nats-server/ ? 0 : $STEP{$figure} // 0;
	my @medians = map { $self->_median($process, $figure, $_) } 2 .. 4;
	my $largest = max(0, map { $medians[$_] - $medians[ $_ - 1 ] } 1, 2);
	return $largest <= $most ? $largest : 0;
}

sub _is_flat_by_step
{
	my ($self, $process, $figure) = @_;
	my ($start, $end) = map { $self->_median($process, $figure, $_) } 2, 5;
	return $end > _limit($process, $figure, $start) && $self->is_flat($process, $figure);
}

sub _limit
{
	my ($process, $figure, $start) = @_;
	my ($factor, $more) = @{ allowance($process, $figure) };
	return $start * (1 + $factor) + $more;
}

sub _fifth
{
	my ($self, $process, $number) = @_;
	my $length = $self->{seconds} / 5;
	# what was under way at the end of the time belongs to the last one
	return grep { $_->{time} >= ($number - 1) * $length && ($number == 5 || $_->{time} < $number * $length) } @{ $self->{samples}{$process} };
}

sub count_in_fifth
{
	my ($self, $number) = @_;
	return scalar(my @samples = $self->_fifth($self->{order}[0], $number));
}

sub _median
{
	my ($self, $process, $figure, $number) = @_;
	my @values = sort { $a <=> $b } map { $_->{$figure} } $self->_fifth($process, $number);
	die "no samples of $process in fifth $number" unless @values;
	return $values[0] if $process =~ /^nats-server/ && $figure =~ /^(?:connections|subscriptions)$/;
	return ($values[ $#values / 2 ] + $values[ @values / 2 ]) / 2;
}

# Of the line that has the least squares of what is left, after the warm-up: kB of memory by a minute, or by a message.
sub _slope
{
	my ($self, $process, $by) = @_;
	my @samples = grep { $_->{time} >= $self->{seconds} / 5 } @{ $self->{samples}{$process} };
	my ($x, $y) = map { my $name = $_; sum(map { $_->{$name} } @samples) / @samples } $by, 'memory';
	my $variance = sum(map { ($_->{$by} - $x)**2 } @samples) or return 0;
	return sum(map { ($_->{$by} - $x) * ($_->{memory} - $y) } @samples) / $variance;
}

# The least steady growth per message, in bytes, that would be seen.
sub _seen_from
{
	my ($self, $process) = @_;
	my $memory = $self->_median($process, 'memory', 2);
	my ($first, $last) = map { $self->_median($process, 'messages', $_) } 2, 5;
	return 1024 * 1.5 * (_limit($process, 'memory', $memory) - $memory) / max(1, $last - $first);
}

sub table
{
	my ($self) = @_;
	my $form = "%-22s %11s %17s %8s %9s %9s %15s %9s %9s %13s %9s  %s\n";
	my $table = sprintf $form, 'process', 'messages', 'memory, kB', 'kB/min', 'bytes/msg', 'seen from', 'contexts, kB', 'files', 'threads', 'connections', 'subscr.', '';
	foreach my $process ($self->processes)
	{
		my @grown = grep { !$self->is_flat($process, $_) } $self->figures($process);
		my @steps = map { sprintf '%s, by %.0f kB', $_, $self->step($process, $_) } grep { $self->_is_flat_by_step($process, $_) } $self->figures($process);
		$table .= sprintf $form, $process, $self->{samples}{$process}[-1]{messages},
			$self->_range($process, 'memory'),
			sprintf('%.1f', 60 * $self->_slope($process, 'time')),
			sprintf('%.2f', 1024 * $self->_slope($process, 'messages')),
			sprintf('%.1f', $self->_seen_from($process)),
			(map { $self->_range($process, $_) } @FIGURES[ 1 .. $#FIGURES ]),
			@grown ? 'GROWS: ' . join(', ', @grown) : @steps ? 'flat but for a step: ' . join('; ', @steps) : 'flat';
	}
	return $table =~ s/ +$//mgr;
}

sub _range
{
	my ($self, $process, $figure) = @_;
	return '' unless defined $self->{samples}{$process}[0]{$figure};
	return join '..', map { sprintf '%.0f', $self->_median($process, $figure, $_) } 2, 5;
}

sub write_csv
{
	my ($self, $path) = @_;
	open(my $file, '>', $path) or die "$path: $!";
	print $file join(',', 'process', 'seconds', 'messages', 'memory_kb', 'contexts_kb', @FIGURES[ 2 .. $#FIGURES ]), "\n";
	foreach my $process ($self->processes)
	{
		foreach my $sample (@{ $self->{samples}{$process} })
		{
			print $file join(',', $process, sprintf('%.1f', $sample->{time}), map { defined $_ ? sprintf('%.0f', $_) : '' } @$sample{ 'messages', @FIGURES }), "\n";
		}
	}
	close $file or die "$path: $!";
	return;
}

sub draw
{
	my ($self, $path, $title) = @_;
	my @processes = grep { !/^nats-server/ } $self->processes;
	my $data = join '', map { my $process = $_; join('', map { sprintf "%.3f %.3f\n", $_->{time} / 60, $_->{memory} / 1024 } @{ $self->{samples}{$process} }) . "e\n" } @processes;
	# gnuplot has eight colours
	my $plots = join ', ', map { "'-' with lines linewidth 1.5 linetype " . ($_ % 8 + 1) . ' dashtype ' . (1 + int($_ / 8)) . " title \"$processes[$_]\"" } 0 .. $#processes;
	open(my $gnuplot, '|-', 'gnuplot') or die "gnuplot: $!";
	print $gnuplot <<"END";
set terminal svg noenhanced size 860,480 font "sans-serif,13" background "white"
set output "$path"
set encoding utf8
set border 3 linecolor rgb "#555555"
set tics nomirror out textcolor rgb "#333333"
set grid linecolor rgb "#dddddd" linetype 1
set key outside right center reverse Left samplen 2
set title "$title"
set xlabel "minutes"
set xrange [0:*] noextend
set ylabel "MB of its own memory"
set yrange [0:*]
plot $plots
$data
END
	close $gnuplot or die "gnuplot failed";
	return;
}

1;

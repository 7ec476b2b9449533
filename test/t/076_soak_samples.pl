
# What the soak says of figures that are flat, that grow, and that rise once.

use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;

use lib dirname(abs_path(__FILE__)) . '/../soak';
use SoakSamples;

# Of a process, one that has the figure $of->($second) in each second of a hundred
sub verdict
{
	my ($process, $figure, $of) = @_;
	my $samples = SoakSamples->new(100);
	$samples->{order} = [$process];
	$samples->{samples}{$process} = [ map { { time => $_, messages => 1000 * $_, memory => 5000, contexts => 1500, $figure => $of->($_) } } 1 .. 99 ];
	return $samples->is_flat($process, $figure) ? $samples->table =~ /(flat.*)/ ? $1 : '' : 'grows';
}

sub step_at { my ($when, $by) = @_; return sub { 5000 + ($_[0] > $when ? $by : 0) }; }

is(verdict('relay', 'memory', sub { 5000 + 500 * ($_[0] % 3) }), 'flat', 'what goes up and down');
is(verdict('relay', 'memory', sub { 5000 + 30 * $_[0] }), 'flat', 'growth that is too little to be seen');
is(verdict('relay', 'memory', sub { 5000 + 50 * $_[0] }), 'grows', 'growth');
is(verdict('relay', 'contexts', sub { 1500 + 10 * $_[0] }), 'grows', 'growth of the memory contexts');
is(verdict('relay', 'memory', step_at(10, 8300)), 'flat', 'a step at first');
is(verdict('relay', 'memory', step_at(35, 8300)), 'flat but for a step: memory, by 8300 kB', 'a step early on');
is(verdict('relay', 'memory', step_at(55, 8300)), 'flat but for a step: memory, by 8300 kB', 'a step later');
is(verdict('relay', 'memory', step_at(85, 8300)), 'grows', 'a step at the end, behind which there may be others');
is(verdict('relay', 'memory', step_at(55, 20_000)), 'grows', 'more than anything that is kept');
is(verdict('relay', 'memory', sub { 5000 + ($_[0] > 45 ? 4000 : 0) + ($_[0] > 65 ? 4000 : 0) }), 'grows', 'two steps');
is(verdict('relay', 'files', sub { 12 + ($_[0] > 55) }), 'grows', 'one descriptor');
is(verdict('nats-server steady', 'connections', sub { $_[0] > 55 ? 1 : 0 }), 'grows', 'one connection');

is(verdict('nats-server steady', 'connections', sub { $_[0] % 10 > 5 ? 2 : $_[0] > 70 && $_[0] % 10 > 2 ? 1 : 0 }), 'flat', 'connections that are there for some turns');

done_testing();

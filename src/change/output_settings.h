/*-------------------------------------------------------------------------
 *
 * output_settings.h
 *	  The settings with which values become text, and text values again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_OUTPUT_SETTINGS_H
#define NP_OUTPUT_SETTINGS_H

extern int	np_output_settings_begin(int needs);
extern int	np_input_settings_begin(int needs);
extern void np_output_settings_end(int nest_level);
extern void np_output_settings_fix(void);

#endif							/* NP_OUTPUT_SETTINGS_H */

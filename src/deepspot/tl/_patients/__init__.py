"""From profiles of slides to what is known of patients: matched with bulk RNA, survival, classes."""
